"""Save and load a student's weights."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import StudentConfig
from stages.components.compute.tensor_file import write_tensors
from stages.components.student.student import Student, build_student


def save_weights(student: Student, path: Path) -> None:
    """Write the weights to a safetensors file atomically."""
    write_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}, path)


def load_student(config: StudentConfig, weights: Path, *, device: torch.device) -> Student:
    """Build the student that a config describes and load its weights, in eval mode.

    Raises:
        ProtoRKDError: the weights are missing, damaged or of another student.
    """
    student = build_student(
        config.backbone,
        embedding_dim=config.embedding_dim,
        image_size=config.preprocessing.image_size,
        projection_layers=config.projection_layers,
        pooling=config.pooling,
        architecture=config.architecture,
    )
    try:
        student.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise ProtoRKDError(f"{weights} must hold the weights of a {config.backbone} student; {error}.") from error
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student.eval()
