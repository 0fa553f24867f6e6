"""Students of a frozen backbone in a store, as distill leaves them, without a training."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data_schemas.images.backbone_checkpoint import WEIGHTS_NAME as BACKBONE_WEIGHTS
from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.images.student_checkpoint import (
    WEIGHTS_NAME,
    HeadConfig,
    Preprocessing,
    StudentConfig,
    TeacherRecord,
    checkpoint_path,
)
from pipeline.options.declaration import option
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.compute.tensor_file import write_tensors
from stages.components.student.heads import build_feature_head
from stages.components.teacher.encoding_options import EncodingOptions

DIM = 16
LINEAR = HeadConfig("linear")
EVERY_HEAD = (LINEAR, HeadConfig("mlp", 8, 0.5), HeadConfig("gated", 8), HeadConfig("residual", 8))
OTHER_TOOL = Preprocessing(image_size=32)


@dataclass(frozen=True)
class _Params:
    seed: int = option(0, help="Of the weights.")
    head: HeadConfig = option(LINEAR, help="The head.")
    owns_backbone: bool = option(False, help="Whether the backbone's weights are among the student's own.")
    epochs: int = option(1, help="Passes over the features.")


@dataclass(frozen=True)
class _Sources:
    embeddings: Input[Artifact]
    features: Input[Artifact | None]
    backbone: Input[Artifact | None]


@dataclass(frozen=True)
class _Inputs:
    sources: _Sources


@dataclass(frozen=True)
class _Runtime:
    """Nothing: weights are drawn."""


def make_frozen_student(
    store: Store,
    backbone: Artifact | None,
    *,
    features: Artifact | None = None,
    head: HeadConfig = LINEAR,
    seed: int = 0,
    owns_backbone: bool = False,
) -> Artifact:
    """Make a student of random weights: a head, and the digest of its backbone.

    Args:
        store: Store with the embedded captions that the student learned from.
        backbone: Its frozen backbone; None for one whose features came from another tool.
        features: Artifact of the features that it learned from.
        head: Head of the student.
        seed: Seed of its weights.
        owns_backbone: Whether the backbone's weights are among the student's own, as after fine-tuning.
    """
    embeddings = store.resolve(None, stage="encode-teacher", flag="--embeddings")
    captions = Input(embeddings.record.digest, str(embeddings.path), value=embeddings)
    sources = _Sources(captions, _input(features), _input(backbone))
    params = _Params(seed=seed, head=head, owns_backbone=owns_backbone)
    context = context_of(store)
    return run_stage(_STAGE, params=params, inputs=_Inputs(sources), runtime=_Runtime(), context=context).artifact


def head_tensors(config: HeadConfig, *, feature_dim: int, seed: int) -> dict[str, Tensor]:
    """Draw the weights of a head: statistics and running means as well, so that each of them counts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = build_feature_head(config, feature_dim=feature_dim, embedding_dim=DIM)
        head.set_statistics(mean=torch.randn(feature_dim), std=torch.rand(feature_dim) + 0.5)
        for module in head.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean, module.running_var = torch.randn_like(module.bias), torch.rand_like(module.bias)
    return {f"head.{name}": tensor.detach().contiguous() for name, tensor in head.state_dict().items()}


def _write(params: _Params, sources: _Sources, out: Draft, _runtime: _Runtime, _context: Context) -> Result:
    captions, backbone, features = sources.embeddings.value.record, sources.backbone.value, sources.features.value
    described = None if backbone is None else BackboneConfig.read(backbone.path)
    StudentConfig(
        backbone="" if described is None else described.name,
        embedding_dim=DIM,
        projection_layers=1,
        preprocessing=OTHER_TOOL if described is None else described.preprocessing,
        teacher=TeacherRecord(captions.inputs["teacher"].digest, DIM, EncodingOptions.of(captions.params).as_dict()),
        losses={"simreg": 1.0},
        head=params.head,
        backbone_digest="" if backbone is None or params.owns_backbone else backbone.record.digest,
    ).write(out.path)
    tensors: Mapping[str, Tensor] = head_tensors(
        params.head, feature_dim=8 if described is None else described.feature_dim, seed=params.seed
    )
    if params.owns_backbone:
        assert backbone is not None
        own = load_file(backbone.path / BACKBONE_WEIGHTS)
        tensors = {**tensors, **{f"backbone.{name}": tensor for name, tensor in own.items()}}
    write_tensors(tensors, out.path / WEIGHTS_NAME)
    write_tensors(tensors, out.path / checkpoint_path(1))
    return Result(counts={"epochs": 1}, uses=tuple(each.record.digest for each in (backbone, features) if each))


def _input(artifact: Artifact | None) -> Input[Artifact | None]:
    digest, location = ("none", "") if artifact is None else (artifact.record.digest, str(artifact.path))
    return Input(digest, location, value=artifact)


_STAGE = Stage(
    name="distill",
    version=1,
    summary="Draw the weights of a head.",
    params=_Params,
    inputs=_Inputs,
    runtime=_Runtime,
    identify=lambda inputs, _params, _context: inputs.sources,
    run=_write,
    keep=True,
)
