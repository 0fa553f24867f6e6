"""Frozen backbones as artifacts: identified by the bytes of their weights, kept once, and loaded from the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.backbone_checkpoint import CONFIG_NAME, WEIGHTS_NAME, BackboneConfig
from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.runner import run_within
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact

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
class BackboneSource:
    """Files of a backbone's weights.

    Args:
        files: Files of weights and configuration.
        source: Where they came from, for people.
    """

    files: tuple[Path, ...]
    source: str


@dataclass(frozen=True)
class _Sources:
    weights: Input[BackboneSource]


@dataclass(frozen=True)
class _Inputs:
    sources: _Sources


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
    if init_from is None:
        from stages.components.backbones.registry import find_family  # keeps torch out of "unchanged"

        family, short = find_family(name)
        found = family.find_weights(short)
        files, source = found.files, found.source
    else:
        if not init_from.is_file():
            raise ProtoRKDError(f"--init-from must name a file of weights; got {init_from}. Check the path.")
        files, source = (init_from,), init_from.name
    digests = [context.file_digests.digest(path) for path in files]
    parts = {path.name: digest for path, digest in zip(files, digests, strict=True)}
    return Input(
        digest=digests[0] if len(digests) == 1 else hash_json(sorted(digests)),
        location=str(files[0].resolve()),
        parts=parts if len(parts) > 1 else {},
        value=BackboneSource(files, source),
    )


def make_backbone(params: BackboneParams, weights: Input[BackboneSource], context: Context) -> Artifact:
    """Make the artifact of a backbone, or find it made.

    Raises:
        ProtoRKDError: there is no such backbone, or the weights are not its own.
    """
    inputs = _Inputs(_Sources(weights))
    artifact = run_within(BACKBONE, params=params, inputs=inputs, runtime=_Runtime(), context=context).artifact
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

    from stages.components.backbones.registry import find_family

    config = BackboneConfig.read(root)
    family, short = find_family(config.name)
    built = family.build(
        short, image_size=config.preprocessing.image_size, pooling=config.pooling, architecture=config.architecture
    )
    try:
        built.network.load_state_dict(safetensors.torch.load_file(root / WEIGHTS_NAME))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise ProtoRKDError(f"{root / WEIGHTS_NAME} must hold the weights of {config.name}; {error}.") from error
    network = built.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False), config


def _run(params: BackboneParams, sources: _Sources, out: Draft, runtime: _Runtime, context: Context) -> Result:
    import torch

    from stages.components.backbones.registry import find_family
    from stages.components.student.foreign_checkpoints import read_tensors
    from stages.components.student.tensor_file import write_tensors

    family, short = find_family(params.name)
    built = family.build(short, image_size=params.image_size, pooling=params.pooling)
    weights = sources.weights.value
    tensors = family.backbone_tensors(short, read_tensors(weights.files[0]))
    try:
        built.network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ProtoRKDError(f"{weights.files[0]} must hold the weights of {params.name}; {error}.") from error
    size = built.preprocessing.image_size
    with torch.inference_mode():
        features = built.network(torch.zeros(1, 3, size, size))
    write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, out.path / WEIGHTS_NAME)
    BackboneConfig(
        name=params.name,
        feature_dim=features.shape[1],
        preprocessing=built.preprocessing,
        pooling=params.pooling,
        architecture=built.architecture,
        source=weights.source,
    ).write(out.path)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        out.adopt(name)
    return Result(counts={"parameters": sum(tensor.numel() for tensor in tensors.values())})


def _identify(inputs: _Inputs, _params: BackboneParams, _context: Context) -> _Sources:
    return inputs.sources


BACKBONE = Stage(
    name="backbone",
    version=1,
    summary="Keep the weights of a frozen backbone.",
    params=BackboneParams,
    inputs=_Inputs,
    runtime=_Runtime,
    identify=_identify,
    run=_run,
    quiet=True,
)
