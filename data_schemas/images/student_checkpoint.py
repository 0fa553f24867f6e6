"""A student on disk: weights as safetensors, and beside them in JSON everything needed to use them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import check_version, read_json, write_json
from data_schemas.later_fields import as_plain, later

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
        resize_size: Side to which the short side is resized before the centre crop, in pixels; 0 is ``image_size``.
        resize: ``shortest`` resizes the short side and keeps the ratio; ``squash`` resizes both sides, whatever their
            ratio, as SigLIP does.
    """

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    resize_size: int = later(0)
    resize: str = later("shortest")


@dataclass(frozen=True)
class HeadConfig:
    """A head on the features of a backbone that was frozen at first; their statistics are among its weights.

    Args:
        kind: ``linear``, ``mlp``, ``gated`` or ``residual``.
        width: Width of the hidden layer; 0 where the kind has none.
        dropout: Share of hidden units that training drops.
    """

    kind: str
    width: int = 0
    dropout: float = 0.0


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
        pooling: Pooling of a transformer's tokens: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        architecture: Configuration that a backbone of transformers is built from; None for families that build by
            name.
        head: Head on standardised features; None where the head is ``projection_layers`` layers.
        backbone_digest: Digest of the artifact of ``backbone`` whose weights the student runs, where they do not lie
            among its own; "" where they do, or where ``backbone`` is "" as well: the features of a head on vectors of
            another tool.
    """

    backbone: str
    embedding_dim: int
    projection_layers: int
    preprocessing: Preprocessing
    teacher: TeacherRecord
    losses: dict[str, float]
    schema_version: int = SCHEMA_VERSION
    pooling: str = later("native")
    architecture: dict[str, Any] | None = later(None)
    head: HeadConfig | None = later(None)
    backbone_digest: str = later("")

    @property
    def is_head_alone(self) -> bool:
        """Whether the student's own weights are those of its head, and none of a backbone's."""
        return self.head is not None and not (self.backbone and not self.backbone_digest)

    def write(self, root: Path) -> None:
        """Write ``student.json`` into an artifact's folder."""
        write_json(root / CONFIG_NAME, as_plain(self))

    @classmethod
    def read(cls, root: Path) -> "StudentConfig":
        """Read ``student.json`` from an artifact's folder.

        Raises:
            ProtoRKDError: it is missing, damaged or of a newer kind.
        """
        path = root / CONFIG_NAME
        values = read_json(path)
        try:
            check_version(values, path, newest=SCHEMA_VERSION)
            preprocessing = preprocessing_of(values.pop("preprocessing"))
            teacher = TeacherRecord(**values.pop("teacher"))
            head = HeadConfig(**values.pop("head")) if "head" in values else None
            return cls(preprocessing=preprocessing, teacher=teacher, head=head, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(f"{path} must describe a student; {error!r}. Run distill again.") from error


def preprocessing_of(values: dict[str, Any]) -> Preprocessing:
    """Build the preprocessing from its JSON.

    Raises:
        KeyError, TypeError: the JSON is no preprocessing.
    """
    return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def find_config_beside(weights: Path) -> Path | None:
    """Find the description of a student beside its weights, of the end or of an epoch; None without one."""
    places = (folder / CONFIG_NAME for folder in (weights.parent, weights.parent.parent))
    return next((path for path in places if path.is_file()), None)


def checkpoint_path(epoch: int) -> str:
    """Return the path of the weights after an epoch, relative to the artifact's folder; epochs count from 1."""
    return f"{CHECKPOINT_FOLDER}/epoch_{epoch}.safetensors"
