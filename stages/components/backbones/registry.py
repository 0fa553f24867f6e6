"""The families of backbones, and the one that a name belongs to."""

from stages.components.backbones.family import BackboneFamily
from stages.components.backbones.timm_family import TimmFamily
from stages.components.backbones.torchvision_family import TorchvisionFamily

FAMILIES: tuple[BackboneFamily, ...] = (TimmFamily(), TorchvisionFamily())
"""Families by prefix; the one without prefix comes last."""


def find_family(name: str) -> tuple[BackboneFamily, str]:
    """Return the family of a backbone, and its name without the family's prefix."""
    family = next(each for each in FAMILIES if name.startswith(each.prefix))
    return family, name.removeprefix(family.prefix)
