"""Download sets through torchvision, only when asked to."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError

_ANY: tuple[Mapping[str, Any], ...] = ({},)

DATASET_CLASSES: dict[str, tuple[str, tuple[Mapping[str, Any], ...]]] = {
    "country211": ("Country211", _ANY),
    "flowers102": ("Flowers102", _ANY),
    "gtsrb": ("GTSRB", ({"split": "train"}, {"split": "test"})),
    "cifar10": ("CIFAR10", _ANY),
    "cifar100": ("CIFAR100", _ANY),
    "stl10": ("STL10", _ANY),
    "dtd": ("DTD", _ANY),
    "eurosat": ("EuroSAT", _ANY),
    "fgvc_aircraft": ("FGVCAircraft", _ANY),
    "food101": ("Food101", _ANY),
    "mnist": ("MNIST", _ANY),
    "oxford_iiit_pet": ("OxfordIIITPet", _ANY),
    "rendered_sst2": ("RenderedSST2", _ANY),
    "caltech101": ("Caltech101", _ANY),
    "sun397": ("SUN397", _ANY),
}
"""torchvision's dataset class of each set that it can fetch, and the options of the calls that fetch all of it."""

ELSEWHERE = {
    "imagenet": "Its terms must be agreed to at https://image-net.org; put its class folders into imagenet/train and "
    "imagenet/val.",
    "birdsnap": "Put class folders into birdsnap/test; CLOOB's authors offer them at "
    "https://github.com/ml-jku/cloob#downstream-tasks.",
    "stanford_cars": "Its site is gone; put class folders into stanford_cars/test; CLOOB's authors offer them at "
    "https://github.com/ml-jku/cloob#downstream-tasks.",
    "ucf101": "torchvision has its videos alone; put one frame of each into class folders in ucf101/testlist01; "
    "CLOOB's authors offer them at https://github.com/ml-jku/cloob#downstream-tasks.",
}
"""What to do about the sets that torchvision cannot fetch."""


def download(name: str, root: Path) -> None:
    """Download a set to where `find_sets` finds it; what is there is not fetched again.

    Args:
        name: Name in the catalogue.
        root: Data folder; made where it is not there.

    Raises:
        ProtoRKDError: torchvision does not offer the set, or it cannot be fetched.
    """
    if name not in DATASET_CLASSES:
        advice = ELSEWHERE.get(name, f"Known are {', '.join(DATASET_CLASSES)}.")
        raise ProtoRKDError(f"A set to download must be one that torchvision offers; got {name!r}. {advice}")
    class_name, calls = DATASET_CLASSES[name]
    dataset_class = getattr(importlib.import_module("torchvision.datasets"), class_name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for options in calls:
            dataset_class(root=str(root), download=True, **options)
    except (OSError, RuntimeError) as error:
        raise ProtoRKDError(
            f"{name} must be within reach to be downloaded to {root}; {error}. Try again, or put it there by hand."
        ) from error
