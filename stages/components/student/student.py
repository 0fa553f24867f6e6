"""The image student: a backbone without classifier, and a projection head to the teacher's width."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Self

from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.backbones.family import BuiltBackbone
from stages.components.backbones.registry import build_backbone, measure_features
from stages.components.student.blocks import find_blocks


class Student(nn.Module):
    """A network that embeds images: backbone, then projection head.

    Args:
        backbone: Maps images to features, (batch, feature_dim).
        head: Maps features to embeddings, (batch, embedding_dim).
        feature_dim: Width of the backbone's features.
        embedding_dim: Width of the embeddings, which is the teacher's.

    Shapes:
        images: (batch, 3, image_size, image_size), float.
        returns: (batch, embedding_dim), float, not normalised.
    """

    def __init__(self, *, backbone: nn.Module, head: nn.Module, feature_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.feature_dim = feature_dim
        self.embedding_dim = embedding_dim
        self.frozen: tuple[str, ...] = ()  # names of modules that do not train

    def features(self, images: Tensor) -> Tensor:
        """Return the features before the projection head, (batch, feature_dim), float: the input of probes."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return one embedding for each image, (batch, embedding_dim), float."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; what is frozen stays in eval mode, so that its statistics do not move."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; without versions of modules, as from a safetensors file, the current ones are assumed.

        Otherwise torchvision's mnasnet would refuse all files that ``torch.save`` did not write.
        """
        versioned = OrderedDict(state_dict)
        versions = getattr(state_dict, "_metadata", None) or getattr(self.state_dict(), "_metadata", None)
        versioned._metadata = versions  # type: ignore[attr-defined]
        return super().load_state_dict(versioned, strict=strict, assign=assign)


def build_student(
    name: str,
    *,
    embedding_dim: int,
    image_size: int = 224,
    projection_layers: int = 1,
    hidden_dim: int | None = None,
    pooling: str = "native",
    architecture: Mapping[str, Any] | None = None,
) -> Student:
    """Make an untrained student in train mode, and test its backbone with one image of the given size.

    Args:
        name: Name of a backbone, as `stages.components.backbones.registry.find_family` knows it.
        embedding_dim: Width of the embeddings, which is the teacher's.
        image_size: Side of the square images in pixels; transformers accept no other size later.
        projection_layers: Linear layers between features and embedding; all but the last are followed by batch
            normalisation and ReLU, and 0 makes the features the embedding.
        hidden_dim: Width between projection layers, of which there must be at least 2; None is the features' width.
        pooling: Pooling of a transformer's tokens: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        architecture: Configuration of a backbone that is not built by its name alone; None looks it up.

    Raises:
        ProtoRKDError: If there is no such backbone, it does not take images of that size, or the head does not fit.

    Example:
        >>> build_student("resnet18", embedding_dim=384, image_size=64)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 384])
    """
    if image_size < 1:
        raise ProtoRKDError(f"--image-size must be at least 1 pixel; got {image_size}. The usual size is 224.")
    built = build_backbone(name, image_size=image_size, pooling=pooling, architecture=architecture)
    return add_head(
        built, name=name, embedding_dim=embedding_dim, projection_layers=projection_layers, hidden_dim=hidden_dim
    )


def add_head(
    built: BuiltBackbone, *, name: str, embedding_dim: int, projection_layers: int, hidden_dim: int | None = None
) -> Student:
    """Put an untrained projection head behind a backbone; the student is in train mode.

    Args:
        built: Backbone, which is tested with one image of its size.
        name: Name of the backbone, for messages.
        embedding_dim: As for `build_student`, like the next two.
        projection_layers: Linear layers of the head.
        hidden_dim: Width between them; None is the features' width.

    Raises:
        ProtoRKDError: the backbone does not take images of its size, or the head does not fit.
    """
    feature_dim = measure_features(name, built.network, image_size=built.preprocessing.image_size)
    head = _build_head(feature_dim, embedding_dim, num_layers=projection_layers, hidden_dim=hidden_dim)
    return Student(backbone=built.network, head=head, feature_dim=feature_dim, embedding_dim=embedding_dim).train()


def freeze_backbone(student: Student) -> None:
    """Freeze the backbone, so that only the head is trained: no gradients, no running statistics, no dropout.

    Raises:
        ProtoRKDError: If the head has nothing to train.
    """
    if not any(parameter.requires_grad for parameter in student.head.parameters()):
        raise ProtoRKDError(
            "--freeze-backbone must leave something to train; got a student without projection head. "
            "Pass --projection-layers 1."
        )
    student.backbone.requires_grad_(False)
    student.frozen = ("backbone",)
    student.train(student.training)


def train_last_blocks(student: Student, num: int) -> None:
    """Freeze the backbone but for its last blocks, and what is defined behind them, such as a last normalisation.

    Parameters that are of the whole, such as position embeddings, stay as they are.

    Args:
        student: Student, changed in place.
        num: Number of blocks that train.

    Raises:
        ProtoRKDError: the backbone has no known blocks, or fewer.
    """
    blocks = find_blocks(student.backbone, flag="--unfreeze")
    if num > len(blocks):
        raise ProtoRKDError(
            f"--unfreeze must name at most last:{len(blocks)}, for the backbone has {len(blocks)} blocks; got "
            f"last:{num}. Pass --unfreeze all to train the whole."
        )
    student.frozen = tuple(_freeze_before(blocks[-num], student.backbone, prefix="backbone."))
    student.train(student.training)


def freeze_batchnorm(student: Student, part: str) -> None:
    """Keep batch normalisation to the running statistics that it has; its gains and offsets go on training.

    Args:
        student: Student, changed in place.
        part: Part of the student: ``backbone``, ``head``, or "" for the whole.
    """
    student.frozen += tuple(
        name
        for name, module in student.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and name.startswith(part)
    )
    student.train(student.training)


def _freeze_before(block: nn.Module, module: nn.Module, *, prefix: str) -> Iterator[str]:
    """Freeze what comes before a block in a module that holds it, and yield the names of the modules frozen."""
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)
    for name, child in module.named_children():
        if block in child.modules():
            if child is not block:
                yield from _freeze_before(block, child, prefix=f"{prefix}{name}.")
            return
        child.requires_grad_(False)
        yield prefix + name


def _build_head(feature_dim: int, embedding_dim: int, *, num_layers: int, hidden_dim: int | None) -> nn.Module:
    if num_layers < 0:
        raise ProtoRKDError(f"--projection-layers must be at least 0; got {num_layers}. A single Linear layer is 1.")
    if hidden_dim is not None and (num_layers < 2 or hidden_dim < 1):
        raise ProtoRKDError(
            f"--hidden-dim must be at least 1 and come with --projection-layers of at least 2; got {hidden_dim} "
            f"with {num_layers}. Leave it out, or add a layer."
        )
    if num_layers == 0:
        if feature_dim != embedding_dim:
            raise ProtoRKDError(
                f"--projection-layers must be at least 1 where features and embedding differ in width; got 0 for "
                f"{feature_dim} and {embedding_dim}. Pass --projection-layers 1."
            )
        return nn.Identity()
    widths = [feature_dim] + [hidden_dim or feature_dim] * (num_layers - 1)
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        # Batch normalisation brings its own offset.
        layers += [nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], embedding_dim))
