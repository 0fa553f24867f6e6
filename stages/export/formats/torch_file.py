"""Write the student's weights as a state dict of plain torch, and a description of the network as JSON."""

import io
from pathlib import Path

import torch

from data_schemas.files import write_json, write_unsynced
from data_schemas.student_checkpoint import StudentConfig
from stages.components.student.student import Student
from stages.export.formats.preprocessing import describe

FOLDER = "torch"

_WEIGHTS_NAME = "student.pt"


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
                "build": "of torchvision.models.get_model(name, weights=None), with image_size= for vit_*, input_size= "
                "for maxvit_*, aux_logits=False for googlenet and inception_v3; the last Linear or 1x1 convolution to "
                "1000 classes is replaced by Identity. resnet50w2, w4 and w5 are ResNet-50 with every layer so many "
                "times as wide. Other names are image towers of open_clip.",
                "feature_dim": student.feature_dim,
            },
            "head": {
                "keys": "head.",
                "num_layers": config.projection_layers,
                "build": "Sequential of Linear(feature_dim, feature_dim, bias=False), BatchNorm1d, ReLU for all layers "
                "but the last, and Linear(feature_dim, embedding_dim); none where num_layers is 0",
            },
            "embedding_dim": config.embedding_dim,
            "unit_length": False,
            "preprocessing": describe(config.preprocessing),
        },
    )
