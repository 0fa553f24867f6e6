"""Build image towers of OpenCLIP as backbones; open_clip is an optional dependency, imported only when needed."""

import difflib
import importlib
from typing import Any

from torch import nn

from data_schemas.errors import ProtoRKDError

PREFIX = "open-clip:"
INSTALL = "pip install 'protorkd[open-clip]'"

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_SMALLEST_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def find_tower(name: str) -> str | None:
    """Return the name under which open_clip lists a backbone; None if it does not list it, or is not installed.

    Args:
        name: ``open-clip:NAME``, which must be listed, or a name without prefix.

    Raises:
        ProtoRKDError: If the name has the prefix, and open_clip is not installed or does not list it.
    """
    explicit = name.startswith(PREFIX)
    try:
        known = _open_clip().list_models()
    except ProtoRKDError:
        if explicit:
            raise
        return None
    tower = name.removeprefix(PREFIX)
    if tower in known:
        return tower
    if explicit:
        nearest = ", ".join(difflib.get_close_matches(tower, known, n=3)) or ", ".join(known)
        raise ProtoRKDError(f"--student {PREFIX}NAME must name a model of open_clip; got {name!r}. Nearest: {nearest}.")
    return None


def build_tower(tower: str, *, image_size: int) -> nn.Module:
    """Make an untrained image tower, including its pooling and its projection to CLIP's space.

    Args:
        tower: Name of the tower, from `find_tower`.
        image_size: Side of the square images in pixels.

    Raises:
        AssertionError, ValueError, RuntimeError: From open_clip, if the tower does not take images of that size.

    Shapes:
        returns: A module, (batch, 3, image_size, image_size) to (batch, dim).
    """
    open_clip = _open_clip()
    config = open_clip.get_model_config(tower)
    vision = config["vision_cfg"] | {"image_size": image_size, "output_tokens": False, "timm_model_pretrained": False}
    # open_clip makes image towers only inside a CLIP model; the text half is dropped on return.
    clip = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=vision,
        text_cfg=_SMALLEST_TEXT_TOWER,
        quick_gelu=config.get("quick_gelu", False),
    )
    return _visual(clip)


def download_tower(tower: str, tag: str, *, image_size: int) -> nn.Module:
    """Make an image tower with the weights that open_clip publishes under a tag.

    Args:
        tower: Name of the tower, from `find_tower`.
        tag: Tag of the weights, such as ``laion2b_s34b_b79k``.
        image_size: Side of the square images in pixels; position embeddings are resized to it where open_clip can.

    Raises:
        ProtoRKDError: If there is no such tag, its activation is another, or the download or the loading fails.
    """
    check_tag(tower, tag)
    open_clip = _open_clip()
    published = open_clip.get_pretrained_cfg(tower, tag)
    try:
        path = open_clip.download_pretrained(published)
    except Exception as error:  # of the HTTP client or the hub's client, of many types
        raise ProtoRKDError(
            f"--pretrained {PREFIX}{tag} must be downloadable; got {error}. Pass --init-from FILE instead."
        ) from error
    try:
        clip = open_clip.create_model(tower, pretrained=str(path), force_image_size=image_size, weights_only=True)
    except Exception as error:  # from open_clip's own checks to those of the text tower's library
        raise ProtoRKDError(
            f"--pretrained {PREFIX}{tag} must fit {tower} with images of {image_size} pixels; got {error}. "
            f"Pass the --image-size that it was trained with."
        ) from error
    return _visual(clip)


def check_tag(tower: str, tag: str) -> None:
    """Refuse a tag under which open_clip publishes no weights that the tower can take.

    Args:
        tower: Name of the tower, from `find_tower`.
        tag: Tag of the weights.

    Raises:
        ProtoRKDError: If there is no such tag, or its activation is another.
    """
    open_clip = _open_clip()
    tags = open_clip.list_pretrained_tags_by_model(tower)
    if tag not in tags:
        known = f"Known: {', '.join(tags)}" if tags else "It has none: leave --pretrained out"
        raise ProtoRKDError(f"--pretrained {PREFIX}TAG must be a tag of {tower} in open_clip; got {tag!r}. {known}.")
    published = open_clip.get_pretrained_cfg(tower, tag)
    uses_quick_gelu = bool(open_clip.get_model_config(tower).get("quick_gelu", False))
    if bool(published.get("quick_gelu", False)) != uses_quick_gelu:
        twin = tower.removesuffix("-quickgelu") if uses_quick_gelu else f"{tower}-quickgelu"
        raise ProtoRKDError(
            f"--pretrained {PREFIX}{tag} must go with a tower of the activation that it was trained with; got {tower}. "
            f"Pass --student {PREFIX}{twin}."
        )


def tower_normalization(
    tower: str, tag: str | None = None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of the images that a tower's published weights were trained with.

    Args:
        tower: Name of the tower, from `find_tower`.
        tag: Tag of the weights; None takes the tower's first tag, or OpenAI's numbers if it has none.
    """
    open_clip = _open_clip()
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(tower)
    published = open_clip.get_pretrained_cfg(tower, tags[0]) if tags else {}
    mean = published.get("mean") or _OPENAI_MEAN
    std = published.get("std") or _OPENAI_STD
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _open_clip() -> Any:  # a module without types
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ProtoRKDError(
            f"--student {PREFIX}NAME must have open_clip installed; got {error}. Run: {INSTALL}"
        ) from error


def _visual(clip: Any) -> nn.Module:
    visual: nn.Module = clip.visual
    return visual
