"""Write the student's weights as a state dict of plain torch, and a description of the network as JSON."""

import io
from pathlib import Path
from typing import Any

import torch

from data_schemas.files import write_json, write_unsynced
from data_schemas.images.student_checkpoint import StudentConfig
from stages.components.student.student import Student
from stages.export.formats.preprocessing import describe

FOLDER = "torch"

_WEIGHTS_NAME = "student.pt"
_BACKBONES = (
    "Of torchvision.models.get_model(name, weights=None), with image_size= for vit_*, input_size= for maxvit_*, "
    "aux_logits=False for googlenet and inception_v3; the last Linear or 1x1 convolution to 1000 classes becomes "
    "Identity. resnet50w2, w4 and w5 are ResNet-50 with every layer so many times as wide. timm:NAME is "
    "timm.create_model(NAME, num_classes=0); hf:NAME is the vision model of transformers that architecture configures, "
    "its tokens pooled as pooling says. Other names are image towers of open_clip."
)
_LAYERS = (
    "Sequential of Linear(feature_dim, feature_dim, bias=False), BatchNorm1d, ReLU for all layers but the last, and "
    "Linear(feature_dim, embedding_dim); none where num_layers is 0"
)
_HEADS = {
    "linear": "layers is Linear(feature_dim, embedding_dim)",
    "mlp": "layers is Sequential of Linear(feature_dim, width, bias=False), BatchNorm1d, GELU, Dropout and "
    "Linear(width, embedding_dim)",
    "gated": "layers is project(ReLU6(gate(norm(x))) * value(norm(x))): norm LayerNorm(feature_dim), gate and value "
    "Linear(feature_dim, width), project Linear(width, embedding_dim)",
    "residual": "layers is project(x + mlp(x)): mlp Sequential of Linear(feature_dim, width, bias=False), BatchNorm1d, "
    "GELU, Dropout and Linear(width, feature_dim), project Linear(feature_dim, embedding_dim)",
}


def write_state_dict(student: Student, config: StudentConfig, out: Path) -> None:
    """Write ``student.pt``, which ``torch.load(path, weights_only=True)`` reads, and ``student.json``.

    Args:
        student: Student to write.
        config: Configuration of the student.
        out: Folder of the export.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    buffer = io.BytesIO()  # a path would become part of the bytes
    torch.save(tensors, buffer)
    write_unsynced(out / FOLDER / _WEIGHTS_NAME, buffer.getvalue())
    write_json(
        out / FOLDER / "student.json",
        {
            "weights": _WEIGHTS_NAME,
            "backbone": {
                "name": config.backbone,
                "keys": "backbone.",
                "build": _BACKBONES,
                "feature_dim": student.feature_dim,
                "pooling": config.pooling,
                "architecture": config.architecture,
            },
            "head": {"keys": "head.", **_describe_head(config)},
            "embedding_dim": config.embedding_dim,
            "unit_length": False,
            "preprocessing": describe(config.preprocessing),
        },
    )


def _describe_head(config: StudentConfig) -> dict[str, Any]:
    if config.head is None:
        return {"num_layers": config.projection_layers, "build": _LAYERS}
    kind = config.head.kind
    build = f"x = (features - feature_mean) / feature_std, two buffers of feature_dim numbers; {_HEADS[kind]}"
    return {"kind": kind, "width": config.head.width, "build": build}
