"""Class names of sets whose own files do not give them."""

import importlib.util
import json
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.prompts import class_name_from_folder, open_clip_metadata

IMAGENET_NAMES = ("auto", "open-clip", "torchvision")
SYNSETS_NAME = "LOC_synset_mapping.txt"

KnownNames = tuple[str, ...] | Mapping[str, str]
"""Names in the order of the set's own class numbers, or by the names of its folders."""

_FOLDER = Path(__file__).parent / "class_names"
_NUMBER_BEFORE = re.compile(r"^\d+[._ -]+")
_SYNSET = re.compile(r"n\d{8}")


def known_names(name: str) -> KnownNames:
    """Read the class names that this package brings for a set; each file says where they come from."""
    names = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))["names"]
    return names if isinstance(names, dict) else tuple(names)


def name_folders(folders: Sequence[str], known: KnownNames = {}) -> dict[str, str]:  # noqa: B006 -- never written to
    """Name class folders, and put them into label order.

    Folders that are numbered, from 0 or from 1, or named like known classes in any spelling, follow the order of the
    known names; all others are sorted, and their names are read from the folders.

    Args:
        folders: Names of all class folders of a set.
        known: Known class names, in the order of class numbers or by folder.

    Raises:
        ProtoRKDError: the folders are numbered in another way.

    Example:
        >>> name_folders(["002", "001", "003"], ("rose", "lily", "iris"))
        {'001': 'rose', '002': 'lily', '003': 'iris'}
    """
    if isinstance(known, Mapping):
        return {folder: known.get(folder, class_name_from_folder(folder)) for folder in sorted(folders)}
    places = _places_by_number(folders, len(known)) or _places_by_name(folders, known)
    if places is None:
        return name_folders(folders)
    return {folder: known[place] for folder, place in sorted(places.items(), key=lambda item: item[1])}


def name_imagenet_folders(folders: Sequence[str], place: Path, *, source: str) -> dict[str, str]:
    """Name the class folders of ImageNet, which are WordNet's numbers and sort into label order.

    Where not all 1,000 are there, only Kaggle's ``LOC_synset_mapping.txt`` tells which ones they are.

    Args:
        folders: Names of all class folders.
        place: Folder that may hold the mapping.
        source: Source of the names, as `imagenet_names` takes it.

    Raises:
        ProtoRKDError: some classes are missing, and so is the mapping; or as `name_folders` and `imagenet_names`.
    """
    names = imagenet_names(source)
    if not all(_SYNSET.fullmatch(folder) for folder in folders):
        return name_folders(folders, names)
    synsets = sorted(folders)
    if (place / SYNSETS_NAME).is_file():
        synsets = sorted(line[:9] for line in (place / SYNSETS_NAME).read_text(encoding="utf-8").splitlines() if line)
    if len(synsets) != len(names) or not set(folders) <= set(synsets):
        raise ProtoRKDError(
            f"{place} must hold all {len(names)} class folders of ImageNet, or {SYNSETS_NAME} with as many lines; got "
            f"{len(folders)} folders and {len(synsets)} known. Add the file, or name the folders in words."
        )
    return {synset: name for synset, name in zip(synsets, names, strict=True) if synset in set(folders)}


def imagenet_names(source: str = "auto") -> tuple[str, ...]:
    """Read the 1,000 names of ImageNet's classes, in label order.

    Args:
        source: "open-clip" for OpenAI's curated list, "torchvision" for the categories of its weights, "auto" for the
            first of these that is installed.

    Raises:
        ProtoRKDError: the source is unknown, or open_clip is not installed.
    """
    if source not in IMAGENET_NAMES:
        raise ProtoRKDError(f"--imagenet-names must be one of {', '.join(IMAGENET_NAMES)}; got {source!r}.")
    if source == "open-clip" or (source == "auto" and importlib.util.find_spec("open_clip") is not None):
        return tuple(open_clip_metadata()["IMAGENET_CLASSNAMES"])
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    try:
        # Run this file alone: its package would import torch.
        return tuple(runpy.run_path(str(Path(spec.origin).parent / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"])
    except (OSError, KeyError):  # the file is not part of the public interface
        from torchvision.models import ResNet50_Weights

        return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def _places_by_number(folders: Sequence[str], num_known: int) -> dict[str, int] | None:
    if not all(re.fullmatch("[0-9]+", folder) for folder in folders):
        return None
    numbers = {folder: int(folder) for folder in folders}
    first = 0 if 0 in numbers.values() else 1
    last = max(numbers.values())
    # Without class 0 and without the last class, it is unknown where counting starts.
    if len(set(numbers.values())) < len(folders) or last - first >= num_known or (first == 1 and last != num_known):
        raise ProtoRKDError(
            f"Numbered class folders must count from 0, or from 1 to {num_known}; got {len(folders)} of them from "
            f"{min(numbers.values())} to {last}. Name the folders in words."
        )
    return {folder: number - first for folder, number in numbers.items()}


def _places_by_name(folders: Sequence[str], known: Sequence[str]) -> dict[str, int] | None:
    places = {_spelled_alike(name): place for place, name in enumerate(known)}
    found = {folder: places.get(_spelled_alike(_NUMBER_BEFORE.sub("", folder))) for folder in folders}
    complete = {folder: place for folder, place in found.items() if place is not None}
    return complete if len(set(complete.values())) == len(folders) else None


def _spelled_alike(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
