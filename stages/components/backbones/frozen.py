"""Frozen backbones as artifacts: identified by the bytes of their weights, kept once, and loaded from the store."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.images.backbone_checkpoint import CONFIG_NAME, WEIGHTS_NAME, BackboneConfig
from data_schemas.images.student_checkpoint import find_config_beside
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.peers import fail_together
from pipeline.runner import run_within
from pipeline.sources import Identified, take_identified
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.backbones.family import BackboneSource

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class BackboneParams:
    """What a backbone is, but for its weights."""

    name: str = option(help="Name of the backbone.")
    image_size: int = option(0, help="Side of its square input in pixels. 0: the model's own.")
    pooling: str = option("native", help="Pooling of a transformer's tokens.")


@dataclass(frozen=True)
class _Sources:
    weights: Input[BackboneSource]


@dataclass(frozen=True)
class _Runtime:
    """Nothing: a backbone is copied."""


def identify_weights(name: str, init_from: Path | None, context: Context) -> Input[BackboneSource]:
    """Find the weights of a backbone, and hash their bytes.

    Args:
        name: Name of the backbone, with its family's prefix.
        init_from: File of weights in the family's layout; None takes those that are published under the name.
        context: Context with remembered digests.

    Raises:
        ProtoRKDError: there are no such weights.
    """
    from stages.components.backbones.registry import find_family

    family, short = find_family(name)
    if init_from is None:
        return identify_source(family.find_weights(short), context)
    if not init_from.is_file():
        raise ProtoRKDError(f"--init-from must name a file of weights; got {init_from}. Check the path.")
    described = family.find_description(short)
    source = BackboneSource(
        (init_from,), described.description if described else (), source=init_from.name, is_published=False
    )
    found = identify_source(source, context, location=str(init_from.resolve()))
    config = find_config_beside(init_from)
    if config is None:
        return found
    # It says how the weights want their images normalised.
    parts = {"weights": found.digest, config.name: context.file_digests.digest(config)}
    return replace(found, digest=hash_json(parts), parts=parts)


def identify_source(source: BackboneSource, context: Context, *, location: str = "") -> Input[BackboneSource]:
    """Hash the files of a backbone.

    Args:
        source: Files that were found.
        context: Context with remembered digests.
        location: Where they lie; "" takes the source's own words.
    """
    digests = {path.name: context.file_digests.digest(path.resolve()) for path in source.files}
    [first, *others] = digests.values()
    return Input(
        digest=hash_json(digests) if others else first,
        location=location or source.source,
        parts=digests if others else {},
        value=source,
    )


def make_backbone(params: BackboneParams, weights: Input[BackboneSource], context: Context) -> Artifact:
    """Make the artifact of a backbone, or find it made; a folder counts by its own name, wherever it lies.

    Raises:
        ProtoRKDError: there is no such backbone, or the weights are not its own.
    """
    from stages.components.backbones.registry import portable_name

    inputs = Identified(_Sources(weights))
    params = replace(params, name=portable_name(params.name))
    artifact = run_within(BACKBONE, params=params, inputs=inputs, runtime=_Runtime(), context=context).artifact
    with fail_together(context.peers):
        artifact.require_whole(read=True)
    return artifact


def load_backbone(root: Path, *, device: "torch.device") -> "tuple[nn.Module, BackboneConfig]":
    """Load a backbone from the folder of its artifact, in eval mode and without gradients.

    Raises:
        ProtoRKDError: a file is missing or damaged, or the family cannot build it here.
    """
    import safetensors
    import safetensors.torch
    import torch

    from stages.components.backbones.registry import build_backbone

    config = BackboneConfig.read(root)
    built = build_backbone(
        config.name,
        image_size=config.preprocessing.image_size,
        pooling=config.pooling,
        architecture=config.architecture,
    )
    try:
        built.network.load_state_dict(safetensors.torch.load_file(root / WEIGHTS_NAME))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise ProtoRKDError(f"{root / WEIGHTS_NAME} must hold the weights of {config.name}; {error}.") from error
    network = built.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False), config


def _run(params: BackboneParams, sources: _Sources, out: Draft, runtime: _Runtime, context: Context) -> Result:
    from stages.components.backbones.initial_weights import load_initial_weights, load_published_weights
    from stages.components.backbones.registry import build_backbone, measure_features
    from stages.components.compute.tensor_file import write_tensors

    source = sources.weights.value
    built = build_backbone(
        params.name,
        image_size=params.image_size,
        pooling=params.pooling,
        source=source if source.description else None,
    )
    if source.is_published:
        start = load_published_weights(built, source, backbone_name=params.name)
    else:
        start = load_initial_weights(built, source.weights[0], backbone_name=params.name)
    size = built.preprocessing.image_size
    tensors = {name: tensor.contiguous() for name, tensor in built.network.state_dict().items()}
    write_tensors(tensors, out.path / WEIGHTS_NAME)
    BackboneConfig(
        name=params.name,
        feature_dim=measure_features(params.name, built.network, image_size=size),
        preprocessing=replace(built.preprocessing, mean=start.mean, std=start.std),
        pooling=params.pooling,
        architecture=built.architecture,
    ).write(out.path)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        out.adopt(name)
    return Result(counts={"parameters": sum(tensor.numel() for tensor in tensors.values())})


BACKBONE = Stage(
    name="backbone",
    version=1,
    summary="Keep the weights of a frozen backbone.",
    params=BackboneParams,
    inputs=Identified,
    runtime=_Runtime,
    identify=take_identified,
    run=_run,
    quiet=True,
)
