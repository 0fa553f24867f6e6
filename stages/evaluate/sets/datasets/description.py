"""Types that describe named sets: a set that was found or is absent, and what a reader is asked for and returns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import check_regular
from stages.evaluate.sets.image_folder import ImageFolder

SPLITS = ("train", "test")


PackedReader = Callable[[tuple[Path, ...]], tuple[np.ndarray, np.ndarray]]
"""Reads from files the images, (images, height, width, 3), uint8, and the labels, (images,), from 0."""


@dataclass(frozen=True)
class PackedImages:
    """Images that lie together in files of the set's own format; `unpack` makes an image folder of them.

    Args:
        name: Name of the set.
        classes: Names of the classes, in label order.
        files: Files to read, in the order in which ``read`` takes them.
        read: Reader of these files.
    """

    name: str
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    read: PackedReader


@dataclass(frozen=True)
class FoundSet:
    """A named set that is there and complete.

    Args:
        name: Name in the catalogue, or of the folder.
        place: Folder that the set lies in.
        class_names: Names of the classes as people say them, in label order; both splits have them as their
            ``classes``.
        mean_per_class: Whether accuracy on this set is by convention the mean over its classes.
        train: Training images for probes and nearest neighbours, validation images included; None where there are none.
        test: Test images for every task; all images of a set that has no splits of its own.
        names_origin: Words that say where the names of the classes come from, or "".
    """

    name: str
    place: Path
    class_names: tuple[str, ...]
    mean_per_class: bool
    train: ImageFolder | PackedImages | None
    test: ImageFolder | PackedImages | None
    names_origin: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are there: train, test or both."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)


@dataclass(frozen=True)
class Absent:
    """A named set that is not there, or is incomplete.

    Args:
        name: Name in the catalogue, or of the folder.
        places: Folders where it was looked for.
        reason: Sentence that says what is missing or wrong there.
    """

    name: str
    places: tuple[Path, ...]
    reason: str


@dataclass(frozen=True)
class Wanted:
    """What a reader of a layout is asked for.

    Args:
        name: Name of the set.
        splits: Splits to list: train, test or both.
        imagenet_names: Source of ImageNet's class names, as `imagenet_names` takes it.
        names_file: File that names the class folders, or None.
    """

    name: str
    splits: tuple[str, ...] = SPLITS
    imagenet_names: str = "auto"
    names_file: Path | None = None


@dataclass(frozen=True)
class Contents:
    """What a reader found at a place: names of the classes in label order, and the images of each split.

    Where the names are not those of a known set, and not those of the folders as they are, words say their origin.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, ImageFolder | PackedImages]
    names_origin: str = ""


Reader = Callable[[Path, Wanted], Contents | None]
"""Reads a set at a place; returns None where nothing has this layout, and raises where part of it is missing."""


def labelled_folder(
    name: str, root: Path, class_names: tuple[str, ...], images: Iterable[tuple[str, int]]
) -> ImageFolder:
    """Make an image folder of paths below the root and their labels, sorted by label and then by path."""
    ordered = sorted(images, key=lambda image: (image[1], image[0]))
    return ImageFolder(
        name=name,
        root=root,
        classes=class_names,
        images=tuple(path for path, _ in ordered),
        labels=tuple(label for _, label in ordered),
    )


def listed(
    place: Path,
    wanted: Wanted,
    class_names: tuple[str, ...],
    splits: Mapping[str, Iterable[tuple[str, int]]],
) -> Contents:
    """Describe a set whose own files list its images.

    Args:
        place: Folder that the paths start from.
        wanted: Name of the set, and the splits to take.
        class_names: Names of the classes, in label order.
        splits: For each split that is there, paths and labels of its images.

    Raises:
        ProtoRKDError: a label is out of range, or a listed image is not there.
    """
    folders = {
        split: labelled_folder(wanted.name, place, class_names, images)
        for split, images in splits.items()
        if split in wanted.splits
    }
    for split, folder in folders.items():
        if not folder.labels or not 0 <= folder.labels[0] <= folder.labels[-1] < len(class_names):
            raise ProtoRKDError(
                f"The {split} images of {place} must have labels of its {len(class_names)} classes; got "
                f"{sorted(set(folder.labels)) or 'no images'}. Extract its archive again."
            )
        missing = [path for path in folder.images if not (place / path).is_file()]
        if missing:
            raise ProtoRKDError(
                f"{place} must hold the {len(folder.images)} {split} images that it lists; got "
                f"{len(missing)} missing, first {missing[0]}. Extract its archive again."
            )
    return Contents(class_names=class_names, splits=folders)


def need(path: Path) -> Path:
    """Return a path without which a set would be incomplete.

    Raises:
        ProtoRKDError: nothing is there, or neither a folder nor a regular file.
    """
    if not path.exists():
        raise ProtoRKDError(f"{path} must be there for the set to be whole; got nothing. Extract its archive again.")
    if not path.is_dir():
        check_regular(path)
    return path
