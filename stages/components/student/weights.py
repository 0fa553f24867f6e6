"""Save and load a student's weights."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import StudentConfig
from pipeline.store.store import Store
from stages.components.backbones.frozen import load_backbone
from stages.components.backbones.registry import build_backbone
from stages.components.compute.tensor_file import write_tensors
from stages.components.student.adapters import merge_adapters
from stages.components.student.frozen_backbone import find_frozen_backbone
from stages.components.student.heads import FeatureHead, build_feature_head
from stages.components.student.student import Student, build_student

_HEAD = "head."


def save_weights(student: Student, path: Path) -> None:
    """Write the weights, with adapters merged into them, to a safetensors file atomically."""
    tensors = merge_adapters({name: tensor.detach().cpu() for name, tensor in student.state_dict().items()})
    write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load_student(config: StudentConfig, weights: Path, *, device: torch.device, store: Store | None = None) -> Student:
    """Build the student that a config describes and load its weights, in eval mode.

    Args:
        config: Configuration of the student.
        weights: File of its weights, which for a student of a frozen backbone are those of its head alone.
        device: Device of the student.
        store: Store that its frozen backbone is looked for in, before the one that the weights lie in.

    Raises:
        ProtoRKDError: the weights are missing, damaged or of another student; its backbone is gone; or it has none,
            because its features came from another tool.
    """
    if config.is_head_alone:
        student = load_frozen_backbone(config, weights, device=device, store=store)
        student.head, student.embedding_dim = load_head(config, weights, device=device), config.embedding_dim
        return student
    tensors = _read(weights, config)
    student = _build(config, tensors, weights)
    _load_into(student, tensors, weights, config)
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student.eval()


def load_frozen_backbone(
    config: StudentConfig, weights: Path, *, device: torch.device, store: Store | None = None
) -> Student:
    """Load the frozen backbone of a student without its head, so that its features are the embeddings.

    Raises:
        ProtoRKDError: as `load_student`.
    """
    backbone, described = load_backbone(find_frozen_backbone(config, weights, store=store).path, device=device)
    dim = described.feature_dim
    return Student(backbone=backbone, head=nn.Identity(), feature_dim=dim, embedding_dim=dim).eval()


def load_head(config: StudentConfig, weights: Path, *, device: torch.device) -> FeatureHead:
    """Load the head of a student of features, in eval mode.

    Raises:
        ProtoRKDError: the weights are missing, damaged or of another student.
    """
    tensors = _read(weights, config)
    head = _build_head(config, tensors, weights)
    _load_into(head, {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items()}, weights, config)
    return head.to(device).eval()


def _build(config: StudentConfig, tensors: Mapping[str, Tensor], weights: Path) -> Student:
    """Build a student whose backbone is among its own weights."""
    image_size = config.preprocessing.image_size
    if config.head is None:
        return build_student(
            config.backbone,
            embedding_dim=config.embedding_dim,
            image_size=image_size,
            projection_layers=config.projection_layers,
            pooling=config.pooling,
            architecture=config.architecture,
        )
    head = _build_head(config, tensors, weights)
    built = build_backbone(
        config.backbone, image_size=image_size, pooling=config.pooling, architecture=config.architecture
    )
    feature_dim = len(head.feature_mean)
    return Student(backbone=built.network, head=head, feature_dim=feature_dim, embedding_dim=config.embedding_dim)


def _build_head(config: StudentConfig, tensors: Mapping[str, Tensor], weights: Path) -> FeatureHead:
    assert config.head is not None
    mean = tensors.get(f"{_HEAD}feature_mean")
    if mean is None:
        raise ProtoRKDError(f"{weights} must hold the weights of a head; got {', '.join(sorted(tensors)[:3])}.")
    return build_feature_head(config.head, feature_dim=len(mean), embedding_dim=config.embedding_dim)


def _read(weights: Path, config: StudentConfig) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise _not_its_weights(weights, config, error) from error


def _load_into(network: nn.Module, tensors: Mapping[str, Tensor], weights: Path, config: StudentConfig) -> None:
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise _not_its_weights(weights, config, error) from error


def _not_its_weights(weights: Path, config: StudentConfig, error: Exception) -> ProtoRKDError:
    return ProtoRKDError(f"{weights} must hold the weights of a {config.backbone} student; {error}.")
