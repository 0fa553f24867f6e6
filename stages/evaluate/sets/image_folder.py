"""Labelled images on disk: one folder per class."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from stages.components.images.listing import list_images, tell_of_others

SPLIT_NAMES = ("train", "test", "val")

_NAMED_FOLDER = re.compile(r"(?P<name>[^=/\\]*)=(?P<folder>.*)", re.DOTALL)


@dataclass(frozen=True)
class ImageFolder:
    """Images with their classes.

    Attributes:
        name: Name in reports, such as ``cifar10``.
        root: Folder that the paths of the images start from.
        classes: Names of the classes, or of their folders, in label order.
        images: Paths below root with forward slashes, by class and then by name.
        labels: For each image, the index of its class.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[int, ...]


def split_name(argument: str) -> tuple[str | None, Path]:
    """Take ``NAME=FOLDER`` apart; a plain ``FOLDER``, or one that exists as written, has no name of its own.

    Raises:
        ProtoRKDError: nothing stands before or after the equals sign.

    Example:
        >>> split_name("pets=/data/oxford-pets")
        ('pets', PosixPath('/data/oxford-pets'))
    """
    match = _NAMED_FOLDER.fullmatch(argument)
    if match is None or Path(argument).exists():
        return None, Path(argument)
    if not match["name"] or not match["folder"]:
        raise ProtoRKDError(f"A named folder must read NAME=FOLDER; got {argument!r}. Write it like pets=/data/pets.")
    return match["name"], Path(match["folder"])


def read_image_folder(folder: Path, *, name: str | None = None) -> ImageFolder:
    """List the images of a folder with one sub-folder per class, or of its ``test/`` or ``val/`` with such sub-folders.

    Images may lie deeper inside their class. Hidden files and folders, and files that are not images, are skipped.

    Args:
        folder: Folder of class folders, or the folder above its splits.
        name: Name of the set; by default the folder's name, or its parent's where the folder is itself called train,
            test or val.

    Raises:
        ProtoRKDError: the folder is absent, holds no class folders, or a class holds no images.
    """
    _check_is_folder(folder)
    return _read(_evaluation_split(folder) or folder, name=name or _set_name(folder))


def read_splits(folder: Path, *, name: str | None = None) -> tuple[ImageFolder, ImageFolder]:
    """List the training and the test images of a folder that holds ``train/``, and ``test/`` or ``val/``.

    Args:
        folder: Folder above the splits.
        name: Name of the set; by default the folder's name.

    Raises:
        ProtoRKDError: the folder or a split is absent or empty, or the splits do not hold the same classes.
    """
    _check_is_folder(folder)
    evaluated = _evaluation_split(folder) or folder / "test"
    for split in (folder / "train", evaluated):
        if not _folders(split):
            raise ProtoRKDError(
                f"{folder} must hold train/ and test/ (or val/) with one sub-folder a class; got no class folders in "
                f"{split}. Nearest neighbours need both splits."
            )
    train, test = (_read(split, name=name or _set_name(folder)) for split in (folder / "train", evaluated))
    if train.classes != test.classes:
        lone = sorted(set(train.classes) ^ set(test.classes))
        raise ProtoRKDError(
            f"{train.root} and {test.root} must hold the same classes; got {lone[0]!r} in one of them only"
            f"{f', and {len(lone) - 1} more' if len(lone) > 1 else ''}. Rename or remove these class folders."
        )
    return train, test


def _evaluation_split(folder: Path) -> Path | None:
    return next((split for split in (folder / "test", folder / "val") if _folders(split)), None)


def _read(root: Path, *, name: str) -> ImageFolder:
    classes = tuple(sorted(path.name for path in _folders(root)))
    if not classes:
        raise ProtoRKDError(f"{root} must hold one sub-folder a class; got none. Move its images into such folders.")
    images: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, class_folder in enumerate(classes):
        found = list_images(root / class_folder, root=root)
        if not found.images:
            raise ProtoRKDError(
                f"Class folder {root / class_folder} must hold images; got none that can be read among "
                f"{found.others.total():,} files. Fill or remove it."
            )
        images.extend(found.images)
        labels.extend([label] * len(found.images))
        others += found.others
    tell_of_others(root, others)
    return ImageFolder(name=name, root=root, classes=classes, images=tuple(images), labels=tuple(labels))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _check_is_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise ProtoRKDError(f"{folder} must be a folder with one sub-folder a class; got {found}. Check the path.")


def _set_name(folder: Path) -> str:
    absolute = folder.resolve() if ".." in folder.parts else folder.absolute()
    return absolute.parent.name if absolute.name in SPLIT_NAMES else absolute.name
