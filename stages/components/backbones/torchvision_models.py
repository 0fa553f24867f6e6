"""Build torchvision's classification models without their classifiers."""

from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from pipeline.log import log

_NUM_CLASSES = 1000  # every torchvision classifier is built for ImageNet's classes
_POSITIONS = "encoder.pos_embedding"


def build_torchvision_model(name: str, *, image_size: int) -> nn.Module:
    """Build an untrained model of torchvision without its classifier.

    Args:
        name: Name of the model.
        image_size: Side of the square images in pixels; transformers accept no other size later.

    Raises:
        AssertionError, ValueError, RuntimeError: From torchvision, if the model does not take images of that size.

    Shapes:
        returns: A module, (batch, 3, image_size, image_size) to (batch, width).
    """
    backbone: nn.Module = torchvision.models.get_model(name, weights=None, **_model_options(name, image_size))
    classifiers = [path for path, module in backbone.named_modules() if _is_classifier(module)]
    backbone.set_submodule(classifiers[-1], nn.Identity())
    return backbone


def resize_positions(backbone: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resize the position embeddings of a vision transformer to the backbone's image size; leave all else as it is."""
    if not isinstance(backbone, VisionTransformer) or _POSITIONS not in weights:
        return weights
    old, new = weights[_POSITIONS].shape, backbone.encoder.pos_embedding.shape
    is_grid = round((old[1] - 1) ** 0.5) ** 2 == old[1] - 1
    if old == new or old[::2] != new[::2] or not is_grid:
        return weights
    log.info("position embeddings are resized from %d patches to %d", old[1] - 1, new[1] - 1)
    return dict(interpolate_embeddings(backbone.image_size, backbone.patch_size, weights))


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
