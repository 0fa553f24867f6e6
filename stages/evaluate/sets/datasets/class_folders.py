"""Sets that lie as one folder a class."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.images.listing import IMAGE_SUFFIXES
from stages.evaluate.sets.datasets.description import Contents, Reader, Wanted, labelled_folder
from stages.evaluate.sets.datasets.names import known_names, name_folders, name_imagenet_folders
from stages.evaluate.sets.image_folder import SPLIT_NAMES

NameFolders = Callable[[Sequence[str], Path, Wanted], dict[str, str]]

_Images = dict[str, list[str]]
"""For each class folder its images, as paths below the set's folder."""


def by_folder_names(folders: Sequence[str], place: Path, wanted: Wanted) -> dict[str, str]:
    """Call classes as their folders are called."""
    return name_folders(folders)


def by_known_names(folders: Sequence[str], place: Path, wanted: Wanted) -> dict[str, str]:
    """Call classes by the names that this package brings for the set."""
    return name_folders(folders, known_names(wanted.name))


def by_imagenet_names(folders: Sequence[str], place: Path, wanted: Wanted) -> dict[str, str]:
    """Call classes by ImageNet's names."""
    return name_imagenet_folders(folders, place, source=wanted.imagenet_names)


def split_reader(
    naming: NameFolders = by_folder_names,
    *,
    train: tuple[str, ...] = ("train",),
    test: tuple[str, ...] = ("test", "val"),
    may_be_empty: bool = False,
) -> Reader:
    """Make a reader of a folder with ``train/`` and ``test/`` (or ``val/``), each with one folder a class.

    Args:
        naming: gives class names by folder, in label order.
        train: folders of training images; all that are there count together.
        test: folders of test images; the first that is there counts.
        may_be_empty: leave out classes without images instead of refusing the set.
    """

    def read(place: Path, wanted: Wanted) -> Contents | None:
        folders = {"train": [f for f in train if _subfolders(place / f)], "test": []}
        folders["test"] = [f for f in test if _subfolders(place / f)][:1]
        found = {
            split: _read_split(place, folders[split], may_be_empty=may_be_empty)
            for split in wanted.splits
            if folders[split]
        }
        return _contents(place, wanted, naming, found) if found else None

    return read


def whole_reader(naming: NameFolders = by_folder_names, *, left_out: Collection[str] = ()) -> Reader:
    """Make a reader of class folders without splits: all images are test images.

    Args:
        naming: gives class names by folder, in label order.
        left_out: folders that are no classes.
    """

    def read(place: Path, wanted: Wanted) -> Contents | None:
        if "test" not in wanted.splits or not _subfolders(place):
            return None
        found = _read_split(place, [""], left_out=left_out, may_be_empty=False)
        return _contents(place, wanted, naming, {"test": found})

    return read


def read_any(place: Path, wanted: Wanted) -> Contents | None:
    """Read a folder of class folders, with splits or without."""
    splits = any(_subfolders(place / split) for split in SPLIT_NAMES)
    return (split_reader() if splits else whole_reader())(place, wanted)


def has_splits(place: Path) -> bool:
    """Whether a folder has test images in class folders."""
    return any(_subfolders(place / split) for split in ("test", "val"))


def _read_split(place: Path, folders: Sequence[str], *, left_out: Collection[str] = (), may_be_empty: bool) -> _Images:
    found: _Images = {}
    for folder in folders:
        for class_folder in _subfolders(place / folder):
            if class_folder not in left_out:
                found.setdefault(class_folder, []).extend(_images(place, Path(folder, class_folder)))
    empty = [class_folder for class_folder, images in found.items() if not images]
    if empty and (not may_be_empty or len(empty) == len(found)):
        raise ProtoRKDError(
            f"Class folder {place / folders[0] / empty[0]} must hold images; got none with a suffix of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}. Extract its archive again, or remove the folder."
        )
    if empty:
        log.info("evaluate: %s: %d of %d classes have no images and are left out", place, len(empty), len(found))
    return {class_folder: images for class_folder, images in found.items() if images}


def _contents(place: Path, wanted: Wanted, naming: NameFolders, found: dict[str, _Images]) -> Contents:
    folders = set.union(*(set(split) for split in found.values()))
    for split, classes in found.items():
        lacking = sorted(folders - set(classes))
        if lacking:
            raise ProtoRKDError(
                f"All splits of {place} must hold the same classes; got no {split} images of {lacking[0]!r}"
                f"{f' and of {len(lacking) - 1} more' if len(lacking) > 1 else ''}. Extract its archive again."
            )
    names = naming(sorted(folders), place, wanted)
    labels = {folder: label for label, folder in enumerate(names)}
    class_names = tuple(names.values())
    splits = {
        split: labelled_folder(
            wanted.name,
            place,
            class_names,
            ((path, labels[folder]) for folder, images in classes.items() for path in images),
        )
        for split, classes in found.items()
    }
    return Contents(class_names=class_names, splits=splits)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _images(place: Path, folder: Path) -> list[str]:
    # Not Path.rglob: ImageNet has over a million images.
    found = []
    for below, folders, files in os.walk(place / folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = Path(below).relative_to(place).as_posix()
        found += [
            f"{prefix}/{name}"
            for name in files
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")  # noqa: PTH122
        ]
    return found
