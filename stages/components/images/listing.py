"""List the image files of a folder, and count what is passed over."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.log import log

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes by which a file is an image, whatever it holds; any other file is one by its first bytes."""

_UNREAD_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg"})
_HEAD_BYTES = 64


@dataclass(frozen=True)
class Listing:
    """The files of a folder, hidden ones apart.

    Args:
        images: Paths of the images with forward slashes, sorted.
        others: Number of the other files, by suffix.
    """

    images: list[str]
    others: Counter[str]


def list_images(folder: Path, *, root: Path) -> Listing:
    """List the images below a folder, at any depth; hidden files and folders are skipped.

    Args:
        folder: Folder to search.
        root: Folder above it that the paths are relative to.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    for path in folder.rglob("*"):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if is_image(path):
            images.append(relative.as_posix())
        else:
            others[path.suffix.lower()] += 1
    return Listing(sorted(images), others)


def is_image(path: Path) -> bool:
    """Tell whether a regular file is an image: by its suffix, or else by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    from stages.components.images.decoding import begins_as_image  # keeps Pillow out of --help

    try:
        with path.open("rb") as file:
            return begins_as_image(file.read(_HEAD_BYTES))
    except OSError:
        return False


def tell_of_others(folder: Path, others: Mapping[str, int]) -> None:
    """Log how many files of a folder are left out because they are no images; aloud where they look like some."""
    if others:
        kinds = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in sorted(others.items()))
        say = log.warning if others.keys() & _UNREAD_SUFFIXES else log.info
        say("%s: %d files are no images that can be read, and are left out: %s", folder, sum(others.values()), kinds)
