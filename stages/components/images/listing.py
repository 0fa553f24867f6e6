"""List the image files of a folder, and count what is passed over."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import open_regular
from pipeline.log import log

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes by which a file is an image, whatever it holds; any other file is one by its first bytes."""

_UNREAD_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg"})
_HEAD_BYTES = 64


@dataclass(frozen=True)
class Listing:
    """Files of a folder, hidden ones apart.

    Args:
        images: Paths of the images with forward slashes, sorted.
        others: Number of the other files, by suffix.
    """

    images: list[str]
    others: Counter[str]


def list_images(folder: Path, *, root: Path) -> Listing:
    """List the images below a folder, at any depth; hidden files and folders are skipped, links are followed.

    A link that leads nowhere is an image if it is called one: it is missing, not passed over. A folder that several
    links lead to, or one to itself, is listed once; by its own path if it lies below this one.

    Args:
        folder: Folder to search.
        root: Folder above it that the paths are relative to.

    Raises:
        ProtoRKDError: a folder cannot be listed, or the name of an image is no UTF-8.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    for below, files in _walk(folder):
        prefix = Path(below).relative_to(root).as_posix()
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million takes seconds
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES or is_image(Path(below, name)):
                images.append(name if prefix == "." else f"{prefix}/{name}")
            else:
                others[suffix] += 1
    from data_schemas.pair_sources.blocks import is_unicode  # keeps pyarrow out of --help

    if odd := next((name for name in images if not is_unicode(name)), None):
        raise ProtoRKDError(
            f"Names of images must be UTF-8; got {os.fsencode(odd)!r} below {root}. Rename it: convmv does so for a "
            "whole folder."
        )
    return Listing(sorted(images), others)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder with its files, once; those behind links come last."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([str(folder)])
    while waiting:
        for below, folders, files in os.walk(waiting.popleft(), onerror=_refuse):
            facts = os.stat(below)  # noqa: PTH116 - as above
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if (facts.st_dev, facts.st_ino) in seen:
                folders.clear()
                continue
            seen.add((facts.st_dev, facts.st_ino))
            waiting += [path for path in (os.path.join(below, name) for name in folders) if os.path.islink(path)]  # noqa: PTH114, PTH118
            yield below, files


def _refuse(error: OSError) -> None:
    raise ProtoRKDError(
        f"{error.filename} must be a folder that can be listed; {error.strerror}. Its images must not be lost in "
        "silence: open it to you, or move it away."
    ) from error


def is_image(path: Path) -> bool:
    """Tell whether a file is an image: by its suffix, or else by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    from stages.components.images.decoding import begins_as_image  # keeps Pillow out of --help

    try:
        with open_regular(path) as file:
            return begins_as_image(file.read(_HEAD_BYTES))
    except OSError:
        return False


def tell_of_others(folder: Path, others: Mapping[str, int]) -> None:
    """Log how many files of a folder are left out because they are no images; aloud where they look like some."""
    if others:
        kinds = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in sorted(others.items()))
        say = log.warning if others.keys() & _UNREAD_SUFFIXES else log.info
        say("%s: %d files are no images that can be read, and are left out: %s", folder, sum(others.values()), kinds)
