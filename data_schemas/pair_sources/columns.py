"""Choose the columns of images, captions and labels: those the user named, or those with a well-known name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError

IMAGE_KEY, CAPTION_KEY = "filepath", "title"
"""Names of the columns unless the user says otherwise."""

_IMAGE_NAMES = ("image", "image_path", "file_name")
_BYTES_NAMES = ("jpg", "jpeg", "png", "webp")
_CAPTION_NAMES = ("caption", "text", "TEXT", "sentence")


@dataclass(frozen=True)
class Columns:
    """Names of the columns, keys or members that hold images, captions and labels.

    Args:
        image: Column of the images.
        caption: Column of the captions.
        label: Column of the labels; "" reads none.
    """

    image: str = IMAGE_KEY
    caption: str = CAPTION_KEY
    label: str = ""

    def chosen(self, names: Sequence[str], path: Path, *, holds_bytes: bool = False, hint: str = "") -> "Columns":
        """Choose among a file's columns; a well-known name stands in for a default that is absent.

        Args:
            names: Names of the file's columns.
            path: Path of the file, for the message.
            holds_bytes: Whether columns of image bytes are among them.
            hint: Further sentence for the message.

        Raises:
            ProtoRKDError: a column is missing, or several others might be meant.
        """
        others = (*_IMAGE_NAMES, *_BYTES_NAMES) if holds_bytes else _IMAGE_NAMES
        image_others = others if self.image == IMAGE_KEY else ()
        caption_others = _CAPTION_NAMES if self.caption == CAPTION_KEY else ()
        columns = Columns(
            choose(names, self.image, path, flag="--image-key", others=image_others, hint=hint),
            choose(names, self.caption, path, flag="--caption-key", others=caption_others, hint=hint),
            choose(names, self.label, path, flag="--label-column", hint=hint) if self.label else "",
        )
        if columns.image == columns.caption:
            raise ProtoRKDError(f"--image-key and --caption-key must name two columns; got {columns.image!r} for both.")
        return columns

    def notes(self, asked: "Columns") -> tuple[str, ...]:
        """Say which columns were taken in place of those that were asked for."""
        pairs = ((self.image, asked.image, "images"), (self.caption, asked.caption, "captions"))
        return tuple(f"{what} are taken from {mine!r}" for mine, theirs, what in pairs if mine != theirs)


def caption_key(keys: Sequence[str], asked: str) -> str | None:
    """Return the key that holds a record's caption; None where there is none or several might be meant."""
    if asked in keys or asked != CAPTION_KEY:
        return asked if asked in keys else None
    found = caption_keys(keys)
    return found[0] if len(found) == 1 else None


def caption_keys(keys: Sequence[str]) -> list[str]:
    """List the well-known names of captions among some keys."""
    return [name for name in _CAPTION_NAMES if name in keys]


def shown(names: Sequence[str]) -> str:
    """Format names for a message: the first few, and each cut where it is long."""
    most, chars = 20, 60
    parts = [repr(name if len(name) <= chars else f"{name[:chars]}...") for name in names[:most]]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(parts)}{more}"


def choose(names: Sequence[str], key: str, path: Path, *, flag: str, others: Sequence[str] = (), hint: str = "") -> str:
    """Choose one column.

    Raises:
        ProtoRKDError: it is not there, and not exactly one of the others is.
    """
    if key in names:
        return key
    there = [name for name in others if name in names]
    if len(there) == 1:
        return there[0]
    several = f" Each of {', '.join(map(repr, there))} might be meant." if there else ""
    raise ProtoRKDError(
        f"{path} must have a column {key!r} ({flag}); got columns {shown(names)}."
        f"{several} Name the right one with {flag}.{hint}"
    )
