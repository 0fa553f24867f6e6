"""Pairs that a reader collects one by one, and the choice of a split."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import VALUE_CHARS, Rejection

ALL = "all"


@dataclass
class Pairs:
    """Pairs of one file, and what was left out.

    Args:
        path: Path of the file.
        name: Name of the set.
        images: Path of each caption's image.
        captions: Captions as written, one for each image.
        rows: Line or place of each pair in the file.
        rejections: Records that were left out.
    """

    path: Path
    name: str
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def add(self, image: str, caption: str, *, row: int, value: str) -> None:
        """Take a pair, or reject it where one of the two is blank.

        Args:
            image: Path of the image.
            caption: Caption of the image.
            row: Line or place in the file.
            value: Text at that place, for a rejection.
        """
        if not caption.strip():
            self.reject("empty caption", row=row, value=value)
        elif not image.strip():
            self.reject("empty image path", row=row, value=value)
        else:
            self.images.append(image)
            self.captions.append(caption)
            self.rows.append(row)

    def reject(self, reason: str, *, row: int, value: str) -> None:
        """Note a record that is left out and why; a long value is cut."""
        self.rejections.append(Rejection(row=row, reason=reason, value=value[:VALUE_CHARS]))


def choose_split(split: str | None, known: Iterable[str], path: Path, *, default: str | None) -> str:
    """Return the split that is asked for, or the default.

    Args:
        split: The split asked for, or None.
        known: Splits that the file has.
        path: Path of the file, for the message.
        default: Split to take if none is asked for; None where the user has to choose.

    Raises:
        ProtoRKDError: there is no such split, or none is asked for and there is no default.
    """
    chosen = default if split is None else split
    known = list(known)
    if chosen not in known:
        got = "none" if chosen is None else repr(chosen)
        raise ProtoRKDError(
            f"Split of {path} must be one of {', '.join(known)}; got {got}. Choose it as in {path}#{known[0]}."
        )
    return chosen
