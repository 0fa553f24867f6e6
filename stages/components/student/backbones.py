"""Build backbones by name, without their classifiers: torchvision's, wide ResNets, image towers of OpenCLIP."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.student.open_clip_towers import INSTALL, build_tower, find_tower
from stages.components.student.wide_resnet import WIDE_RESNETS, build_wide_resnet

_NUM_CLASSES = 1000  # every torchvision classifier is built for ImageNet's classes


def list_backbones() -> list[str]:
    """Name every backbone that needs no optional dependency, sorted: torchvision's classifiers and wide ResNets.

    With open_clip installed, ``open-clip:NAME`` is a backbone for every name that it lists; NAME alone is, too, unless
    it is in this list.
    """
    return sorted([*torchvision_backbones(), *WIDE_RESNETS])


def torchvision_backbones() -> list[str]:
    """Name torchvision's classification models, sorted."""
    return list(torchvision.models.list_models(module=torchvision.models))


def build_backbone(name: str, *, image_size: int) -> tuple[nn.Module, int]:
    """Make an untrained backbone in train mode, and test it with one image of the given size.

    Args:
        name: One of `list_backbones`, or an image tower of OpenCLIP.
        image_size: Side of the square images in pixels; transformers accept no other size later.

    Returns:
        The backbone, and the width of its features.

    Raises:
        ProtoRKDError: If there is no such backbone, or it does not take images of that size.

    Shapes:
        images: (batch, 3, image_size, image_size), float.
        features: (batch, width), float.
    """
    if image_size < 1:
        raise ProtoRKDError(f"--image-size must be at least 1 pixel; got {image_size}. The usual size is 224.")
    build = _find_builder(name)
    try:
        backbone = build(image_size=image_size)
        return backbone, _probe_feature_dim(backbone, image_size)
    except (AssertionError, ValueError, RuntimeError) as error:  # sizes too small, or not divided by patches or windows
        raise ProtoRKDError(
            f"--image-size must suit --student {name}; got {image_size} ({error}). "
            "Pass --image-size 224, which every backbone takes."
        ) from error


def _find_builder(name: str) -> Callable[..., nn.Module]:
    if name in torchvision_backbones():
        return functools.partial(_build_torchvision, name)
    if name in WIDE_RESNETS:
        return lambda **_: build_wide_resnet(name)  # of any size
    tower = find_tower(name)
    if tower is None:
        raise _unknown_error(name)
    return functools.partial(build_tower, tower)


def _build_torchvision(name: str, *, image_size: int) -> nn.Module:
    backbone: nn.Module = torchvision.models.get_model(name, weights=None, **_model_options(name, image_size))
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
def _probe_feature_dim(backbone: nn.Module, image_size: int) -> int:
    backbone.eval()
    features: Tensor = backbone(torch.zeros(1, 3, image_size, image_size))
    backbone.train()
    return features.shape[1]


def _unknown_error(name: str) -> ProtoRKDError:
    known = list_backbones()
    nearest = difflib.get_close_matches(name, known, n=3)
    suggestion = f" Nearest: {', '.join(nearest)}." if nearest else ""
    return ProtoRKDError(
        f"--student must be a torchvision classification model, a wide ResNet, or an image tower of OpenCLIP; "
        f"got {name!r}.{suggestion} Known: {', '.join(known)}; and what open_clip lists, after: {INSTALL}"
    )
