"""What has to be installed to run an export."""

import torchvision

from stages.export.networks_protorkd import WIDE_RESNETS

_OF_PREFIX = {"timm:": {"timm": ">=1.0.20"}, "hf:": {"transformers": ">=4.56"}}
_OF_TOWERS = {"open_clip_torch": ">=3.0"}


def requirements_of(backbone: str) -> dict[str, str]:
    """Return the packages that an export for sentence-transformers needs, each with its versions.

    Args:
        backbone: Name of the student's backbone.
    """
    family = next((of_family for prefix, of_family in _OF_PREFIX.items() if backbone.startswith(prefix)), None)
    if family is None:
        own = {*torchvision.models.list_models(module=torchvision.models), *WIDE_RESNETS}
        family = {} if backbone in own else _OF_TOWERS
    return {"sentence-transformers": ">=6.0", "torchvision": ">=0.26", **family}
