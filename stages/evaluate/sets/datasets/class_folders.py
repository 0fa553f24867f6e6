"""Readers of sets with one folder per class."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.images.listing import list_images, tell_of_others
from stages.evaluate.sets.datasets.description import Contents, Reader, Wanted, labelled_folder
from stages.evaluate.sets.datasets.names import (
    FolderNames,
    known_names,
    name_class_folders,
    name_folders,
    name_imagenet_folders,
)
from stages.evaluate.sets.image_folder import SPLIT_NAMES

NameFolders = Callable[[Sequence[str], Path, Wanted], FolderNames]

_Images = dict[str, list[str]]
"""For each class folder its images, as paths below the set's folder."""


def by_folder_names(folders: Sequence[str], place: Path, wanted: Wanted) -> FolderNames:
    """Name classes by the file that is given for them, or after their folders."""
    return name_class_folders(folders, place, file=wanted.names_file, imagenet_names=wanted.imagenet_names)


def by_known_names(folders: Sequence[str], place: Path, wanted: Wanted) -> FolderNames:
    """Name classes by the list that this package brings for the set."""
    return FolderNames(name_folders(folders, known_names(wanted.name)))


def by_imagenet_names(folders: Sequence[str], place: Path, wanted: Wanted) -> FolderNames:
    """Name classes by ImageNet's list."""
    return FolderNames(name_imagenet_folders(folders, source=wanted.imagenet_names))


def split_reader(
    naming: NameFolders = by_folder_names,
    *,
    train: tuple[str, ...] = ("train",),
    test: tuple[str, ...] = ("test", "val"),
    may_be_empty: bool = False,
) -> Reader:
    """Make a reader of a folder with ``train/`` and ``test/`` (or ``val/``), each with one folder per class.

    Args:
        naming: Function that names class folders, in label order.
        train: Folders of training images; all that are there are read together.
        test: Folders of test images; only the first that is there is read.
        may_be_empty: Leave out classes without images instead of refusing the set.
    """

    def read(place: Path, wanted: Wanted) -> Contents | None:
        folders = {"train": [f for f in train if _subfolders(place / f)], "test": []}
        folders["test"] = [f for f in test if _subfolders(place / f)][:1]
        splits = {
            split: _read_split(place, folders[split], may_be_empty=may_be_empty)
            for split in wanted.splits
            if folders[split]
        }
        return _contents(place, wanted, naming, splits) if splits else None

    return read


def whole_reader(naming: NameFolders = by_folder_names, *, left_out: Collection[str] = ()) -> Reader:
    """Make a reader of class folders without splits: all images are test images.

    Args:
        naming: Function that names class folders, in label order.
        left_out: Folders that are not classes.
    """

    def read(place: Path, wanted: Wanted) -> Contents | None:
        if "test" not in wanted.splits or not _subfolders(place):
            return None
        images = _read_split(place, [""], left_out=left_out, may_be_empty=False)
        return _contents(place, wanted, naming, {"test": images})

    return read


def read_any(place: Path, wanted: Wanted) -> Contents | None:
    """Read a folder of class folders, with splits or without."""
    splits = any(_subfolders(place / split) for split in SPLIT_NAMES)
    return (split_reader() if splits else whole_reader())(place, wanted)


def has_splits(place: Path) -> bool:
    """Check whether a folder has test images in class folders."""
    return any(_subfolders(place / split) for split in ("test", "val"))


def _read_split(place: Path, folders: Sequence[str], *, left_out: Collection[str] = (), may_be_empty: bool) -> _Images:
    by_class: _Images = {}
    others: Counter[str] = Counter()
    for folder in folders:
        for class_folder in _subfolders(place / folder):
            if class_folder not in left_out:
                found = list_images(place / folder / class_folder, root=place)
                by_class.setdefault(class_folder, []).extend(found.images)
                others += found.others
    tell_of_others(place, others)
    empty = [class_folder for class_folder, images in by_class.items() if not images]
    if empty and (not may_be_empty or len(empty) == len(by_class)):
        raise ProtoRKDError(
            f"Class folder {place / folders[0] / empty[0]} must hold images; got none that can be "
            "read. Extract its archive again, or remove the folder."
        )
    if empty:
        log.info("evaluate: %s: %d of %d classes have no images and are left out", place, len(empty), len(by_class))
    return {class_folder: images for class_folder, images in by_class.items() if images}


def _contents(place: Path, wanted: Wanted, naming: NameFolders, by_split: dict[str, _Images]) -> Contents:
    folders = set.union(*(set(split) for split in by_split.values()))
    for split, classes in by_split.items():
        lacking = sorted(folders - set(classes))
        if lacking:
            raise ProtoRKDError(
                f"All splits of {place} must hold the same classes; got no {split} images of {lacking[0]!r}"
                f"{f' and of {len(lacking) - 1} more' if len(lacking) > 1 else ''}. Extract its archive again."
            )
    named = (by_folder_names if wanted.names_file else naming)(sorted(folders), place, wanted)
    labels = {folder: label for label, folder in enumerate(named.by_folder)}
    class_names = tuple(named.by_folder.values())
    splits = {
        split: labelled_folder(
            wanted.name,
            place,
            class_names,
            ((path, labels[folder]) for folder, images in classes.items() for path in images),
        )
        for split, classes in by_split.items()
    }
    return Contents(class_names=class_names, splits=splits, names_origin=named.origin)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
