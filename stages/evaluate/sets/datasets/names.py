"""Class names of sets whose own files do not give them."""

import importlib.util
import json
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.evaluate.sets.datasets.folder_names import (
    SYNSET,
    class_name_from_folder,
    code_names,
    match_folders,
    names_from_folders,
)
from stages.evaluate.sets.datasets.name_files import find_name_file, names_by_file
from stages.evaluate.sets.prompts import open_clip_metadata

IMAGENET_NAMES = ("auto", "open-clip", "torchvision")

KnownNames = tuple[str, ...] | Mapping[str, str]
"""Names in the order of the set's own class numbers, or by the names of its folders."""

_FOLDER = Path(__file__).parent / "class_names"


@dataclass(frozen=True)
class FolderNames:
    """Names of class folders.

    Args:
        by_folder: Name of each folder, in label order.
        origin: Words that say where names come from that do not stand in the folders' names as they are; or "".
    """

    by_folder: Mapping[str, str]
    origin: str = ""


def name_class_folders(folders: Sequence[str], place: Path, *, file: Path | None, imagenet_names: str) -> FolderNames:
    """Name the class folders of a set of which nothing is known, in sorted order.

    Args:
        folders: Names of all class folders.
        place: Folder that they lie in; where they are called by codes, a file beside them may name them.
        file: File that names them, or None.
        imagenet_names: Source of ImageNet's class names, as `imagenet_names` takes it.

    Raises:
        ProtoRKDError: as `names_by_file` of the file that is given, and as `imagenet_names`.
    """
    folders = sorted(folders)
    if file is not None:
        return FolderNames(names_by_file(folders, file), f"from {file}")
    coded = code_names(folders) or all(folder.isdecimal() for folder in folders)
    if coded and (beside := find_name_file(place)):
        try:
            return FolderNames(names_by_file(folders, beside), f"from {beside}")
        except ProtoRKDError as error:
            log.warning("evaluate: %s names no classes: %s", beside, error)
    plain = {folder: class_name_from_folder(folder) for folder in folders}
    if all(SYNSET.fullmatch(folder) for folder in folders):
        names = name_imagenet_folders(folders, source=imagenet_names)
        return FolderNames(names, "that ImageNet's WordNet ids have" if names != plain else "")
    names = dict(zip(folders, names_from_folders(folders), strict=True))
    return FolderNames(names, "without the numbers before them" if names != plain else "")


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
    places = match_folders(folders, known)
    if places is None:
        return dict(zip(sorted(folders), names_from_folders(sorted(folders)), strict=True))
    return {folder: known[place] for folder, place in sorted(places.items(), key=lambda item: item[1])}


def name_imagenet_folders(folders: Sequence[str], *, source: str) -> dict[str, str]:
    """Name the class folders of ImageNet, in label order; a WordNet id that is none of its 1,000 stays as it is.

    Args:
        folders: Names of all class folders: WordNet ids, or as `name_folders` takes them.
        source: Source of the names, as `imagenet_names` takes it.

    Raises:
        ProtoRKDError: as `name_folders` and `imagenet_names`.
    """
    names = imagenet_names(source)
    if not all(SYNSET.fullmatch(folder) for folder in folders):
        return name_folders(folders, names)
    by_synset = dict(zip(imagenet_synsets(), names, strict=True))
    return {folder: by_synset.get(folder, folder) for folder in sorted(folders)}


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


def imagenet_synsets() -> list[str]:
    """Read the WordNet ids of ImageNet's 1,000 classes, in label order."""
    synsets: list[str] = json.loads((_FOLDER / "imagenet.json").read_text(encoding="utf-8"))["synsets"]
    return synsets
