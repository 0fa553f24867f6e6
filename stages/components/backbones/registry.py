"""The families of backbones: which one a name belongs to, and what is built by it."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.commands.listing import NameGroup
from stages.components.backbones.family import BackboneFamily, BackboneSource, BuiltBackbone, is_installed
from stages.components.backbones.hf_family import HFFamily, known_kinds
from stages.components.backbones.module_family import ModuleFamily
from stages.components.backbones.open_clip_family import OpenCLIPFamily
from stages.components.backbones.timm_family import TimmFamily
from stages.components.backbones.torchvision_family import TorchvisionFamily

if TYPE_CHECKING:
    from torch import nn

_PLAIN, _OPEN_CLIP = TorchvisionFamily(), OpenCLIPFamily()

FAMILIES: tuple[BackboneFamily, ...] = (_PLAIN, TimmFamily(), HFFamily(), _OPEN_CLIP)
"""Families in the order in which they are listed."""

_MODULES = ModuleFamily()  # not listed: nobody types these names

_MOST_SUGGESTIONS = 5


def find_family(name: str) -> tuple[BackboneFamily, str]:
    """Return the family of a backbone, and its name without the family's prefix.

    A name without prefix is torchvision's or a wide ResNet's; any other is OpenCLIP's where that lists it.

    Raises:
        ProtoRKDError: no family has such a name.
    """
    for family in (*FAMILIES, _MODULES):
        if family.prefix and name.startswith(family.prefix):
            return family, name.removeprefix(family.prefix)
    if name in _PLAIN.names():
        return _PLAIN, name
    if _OPEN_CLIP.lists(name):
        return _OPEN_CLIP, name
    raise _unknown(name)


def portable_name(name: str) -> str:
    """Return the name of a backbone without the place of its folder: ``hf:/models/dino`` is ``hf:dino``."""
    family = next((family for family in FAMILIES if family.prefix and name.startswith(family.prefix)), None)
    if family is None or not Path(name.removeprefix(family.prefix)).is_dir():
        return name
    return family.prefix + Path(name.removeprefix(family.prefix)).resolve().name


def published_name(name: str, pretrained: str) -> str:
    """Return the full name of published weights that a backbone starts from.

    Args:
        name: Name of the backbone, from ``--student``.
        pretrained: Value of ``--pretrained``: the source of a family, for OpenCLIP with a tag behind a colon.

    Raises:
        ProtoRKDError: there is no such source, or it has none for this backbone.
    """
    source, _, tag = pretrained.partition(":")
    known = {family.source: family for family in FAMILIES}
    if source not in known or (tag and known[source] is not _OPEN_CLIP):
        choices = [each for each in known if each != _OPEN_CLIP.source]
        raise ProtoRKDError(
            f"--pretrained must be {', '.join(choices)} or {_OPEN_CLIP.prefix}TAG; got {pretrained!r}. "
            "Pass --init-from FILE for a file."
        )
    family, short = find_family(name)
    if family is not known[source]:
        instead = f"--student {known[source].prefix}NAME" if known[source].prefix else "--init-from FILE instead"
        raise ProtoRKDError(
            f"--pretrained {pretrained} must go with {known[source].title}; got --student {name}. Pass {instead}."
        )
    full = f"{short.partition(':')[0]}:{tag}" if tag else short
    family.check_published(full)
    return family.prefix + full


def build_backbone(
    name: str,
    *,
    image_size: int,
    pooling: str = "native",
    architecture: Mapping[str, Any] | None = None,
    source: BackboneSource | None = None,
) -> BuiltBackbone:
    """Build an untrained backbone by its full name, in eval mode.

    Args:
        name: Name with the family's prefix.
        image_size: Side of the square images in pixels; 0 is the model's own.
        pooling: Pooling of a transformer's tokens, one of `POOLINGS`.
        architecture: Configuration of a backbone that is not built by its name alone; None looks it up.
        source: Files that were found under the name; None finds what it needs.

    Raises:
        ProtoRKDError: there is no such backbone, or it does not take images of that size or such pooling.
    """
    if image_size < 0:
        raise ProtoRKDError(f"--image-size must be at least 1 pixel; got {image_size}. The usual size is 224.")
    family, short = find_family(name)
    try:
        return family.build(short, image_size=image_size, pooling=pooling, architecture=architecture, source=source)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise _size_error(name, image_size, error) from error


def check_backbone(name: str, *, image_size: int, pooling: str = "native") -> None:
    """Refuse a backbone as `build_backbone` does, without making its weights."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes without numbers
        build_backbone(name, image_size=image_size, pooling=pooling)


def measure_features(name: str, network: "nn.Module", *, image_size: int) -> int:
    """Return the width of a backbone's features, by one image of the given size; its mode stays as it is.

    Raises:
        ProtoRKDError: it does not take images of that size.

    Shapes:
        images: (1, 3, image_size, image_size), float.
        features: (1, width), float.
    """
    import torch

    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = network(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, ValueError, RuntimeError) as error:  # too small, or not divided by patches or windows
        raise _size_error(name, image_size, error) from error
    finally:
        network.train(was_training)
    return int(features.shape[1])


def student_groups() -> list[NameGroup]:
    """List the backbones that ``--student`` and ``--backbone`` take, family by family."""
    return [
        NameGroup(
            title=family.source,
            usage=family.usage,
            names=dict.fromkeys(known_kinds() if isinstance(family, HFFamily) else family.names(), ""),
            install="" if is_installed(family) else family.install,
        )
        for family in FAMILIES
    ]


def _size_error(name: str, image_size: int, error: Exception) -> ProtoRKDError:
    return ProtoRKDError(
        f"--image-size must suit --student {name}; got {image_size} ({error}). "
        "Pass --image-size 224, which nearly every backbone takes."
    )


def _unknown(name: str) -> ProtoRKDError:
    short: dict[str, str] = {}
    for family in FAMILIES:
        for each in family.names():
            bare = each.partition(".")[0]  # without the tag of weights
            short.setdefault(bare.lower(), family.prefix + bare)
    nearest = [short[each] for each in difflib.get_close_matches(name.lower(), short, n=_MOST_SUGGESTIONS)]
    lines = [f"Nearest: {', '.join(nearest)}."] if nearest else []
    lines += [f"After {family.install}: {family.prefix}NAME." for family in FAMILIES if not is_installed(family)]
    return ProtoRKDError(
        f"--student and --backbone must name a known backbone; got {name!r}. {' '.join(lines)} "
        "A model of the hub is hf:OWNER/NAME, a folder hf:FOLDER or timm:FOLDER; `protorkd list students` lists names."
    )
