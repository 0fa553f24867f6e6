"""A student on disk: weights as safetensors, and beside them in JSON everything needed to use them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json

WEIGHTS_NAME = "student.safetensors"
CONFIG_NAME = "student.json"
CHECKPOINT_FOLDER = "checkpoints"
SCHEMA_VERSION = 1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TeacherRecord:
    """The teacher that a student was distilled from.

    Args:
        identity: Digest of the teacher's bytes.
        dim: Width of the teacher's embeddings.
        recipe: How the captions were embedded: max_tokens, prompt, truncate_dim, embedding_dtype and teacher_precision,
            which is fp32 where it is absent.
    """

    identity: str
    dim: int
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the student's input: short side to ``image_size``, centre crop, scale to 0..1, normalise.

    Args:
        image_size: Side of the square input, in pixels.
        mean: Mean of each RGB channel, subtracted; ImageNet's, unless the student started from weights that want
            others.
        std: Standard deviation of each RGB channel, divided by; ImageNet's likewise.
        interpolation: Interpolation of the antialiased resize.
    """

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class StudentConfig:
    """The content of ``student.json``: architecture, preprocessing and training targets of a student.

    Args:
        backbone: Name of a torchvision model, a wide ResNet, or an image tower of OpenCLIP.
        embedding_dim: Width of the student's embeddings.
        projection_layers: Number of layers of the projection head.
        preprocessing: Preprocessing of the student's images.
        teacher: Teacher whose embeddings the student learned.
        losses: Weight of each objective that the student was trained with.
    """

    backbone: str
    embedding_dim: int
    projection_layers: int
    preprocessing: Preprocessing
    teacher: TeacherRecord
    losses: dict[str, float]
    schema_version: int = SCHEMA_VERSION

    def write(self, root: Path) -> None:
        """Write ``student.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, root: Path) -> "StudentConfig":
        """Read ``student.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing, damaged or of a newer kind.
        """
        path = root / CONFIG_NAME
        values = read_json(path)
        try:
            if values["schema_version"] > SCHEMA_VERSION:
                raise ProtoRKDError(
                    f"{path} must be of schema version {SCHEMA_VERSION} or older; use a newer protorkd."
                )
            preprocessing = values.pop("preprocessing")
            preprocessing |= {name: tuple(preprocessing[name]) for name in ("mean", "std")}
            teacher = TeacherRecord(**values.pop("teacher"))
            return cls(preprocessing=Preprocessing(**preprocessing), teacher=teacher, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(f"{path} must describe a student; {error!r}. Run distill again.") from error


def find_config_beside(weights: Path) -> Path | None:
    """Find the description of a student beside its weights, of the end or of an epoch; None without one."""
    places = (folder / CONFIG_NAME for folder in (weights.parent, weights.parent.parent))
    return next((path for path in places if path.is_file()), None)


def checkpoint_path(epoch: int) -> str:
    """Return the path of the weights after an epoch, relative to the artifact's folder; epochs count from 1."""
    return f"{CHECKPOINT_FOLDER}/epoch_{epoch}.safetensors"
