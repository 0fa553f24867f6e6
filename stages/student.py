"""The image student: any torchvision backbone without its classifier, and a projection head to the teacher's width."""

import difflib
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError

_NUM_CLASSES = 1000  # every torchvision classifier is built for ImageNet's classes


class Student(nn.Module):
    """Embed images: backbone, then projection head.

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

    def features(self, images: Tensor) -> Tensor:
        """Return what the projection head sees, (batch, feature_dim), float: the input of probes."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return one embedding per image, (batch, embedding_dim), float."""
        embeddings: Tensor = self.head(self.features(images))
        return embeddings


def list_backbones() -> list[str]:
    """Name every backbone that `build_student` takes: torchvision's classification models, sorted."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build_student(
    name: str, *, embedding_dim: int, image_size: int = 224, projection_layers: int = 1, hidden_dim: int | None = None
) -> Student:
    """Make an untrained student in train mode, after one image of the given size has passed through its backbone.

    Args:
        name: One of `list_backbones`.
        embedding_dim: Width of the embeddings, which is the teacher's.
        image_size: Side of the square images in pixels; vit and maxvit take this size alone ever after.
        projection_layers: Linear layers between features and embedding; all but the last are followed by batch
            normalisation and ReLU, and 0 makes the features the embedding.
        hidden_dim: Width between projection layers, of which there must be at least 2; None is the features' width.

    Raises:
        ProtoRKDError: If there is no such backbone, it does not take images of that size, or the head does not fit.

    Example:
        >>> build_student("resnet18", embedding_dim=384, image_size=64)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 384])
    """
    backbone = _build_backbone(name, image_size)
    feature_dim = _probe_feature_dim(backbone, name, image_size)
    head = _build_head(feature_dim, embedding_dim, num_layers=projection_layers, hidden_dim=hidden_dim)
    return Student(backbone=backbone, head=head, feature_dim=feature_dim, embedding_dim=embedding_dim)


def _build_backbone(name: str, image_size: int) -> nn.Module:
    known = list_backbones()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3)
        suggestion = f" Nearest: {', '.join(nearest)}." if nearest else ""
        raise ProtoRKDError(
            f"--student must be a torchvision classification model; got {name!r}.{suggestion} "
            f"Known: {', '.join(known)}."
        )
    if image_size < 1:
        raise ProtoRKDError(f"--image-size must be at least 1 pixel; got {image_size}. The usual size is 224.")
    try:
        backbone: nn.Module = torchvision.models.get_model(name, weights=None, **_model_options(name, image_size))
    except (AssertionError, ValueError) as error:  # sizes that patches or windows do not divide
        raise _image_size_error(name, image_size, error) from error
    classifiers = [path for path, module in backbone.named_modules() if _is_classifier(module)]
    backbone.set_submodule(classifiers[-1], nn.Identity())
    return backbone


def _model_options(name: str, image_size: int) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary classifiers would make the training output a tuple; their own initialisation is slow, and warns.
        return {"aux_logits": False, "init_weights": False}
    return {}


def _is_classifier(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):  # squeezenet classifies each position, then pools
        return module.kernel_size == (1, 1) and module.out_channels == _NUM_CLASSES
    return isinstance(module, nn.Linear) and module.out_features == _NUM_CLASSES


@torch.no_grad()
def _probe_feature_dim(backbone: nn.Module, name: str, image_size: int) -> int:
    backbone.eval()
    try:
        features: Tensor = backbone(torch.zeros(1, 3, image_size, image_size))
    except RuntimeError as error:
        raise _image_size_error(name, image_size, error) from error
    backbone.train()
    return features.shape[1]


def _image_size_error(name: str, image_size: int, error: Exception) -> ProtoRKDError:
    return ProtoRKDError(
        f"--image-size must suit --student {name}; got {image_size} ({error}). "
        "Pass --image-size 224, which every backbone takes."
    )


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
