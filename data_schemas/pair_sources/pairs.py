"""Pairs of images and captions as a file's reader collects them, and which split of the file it reads."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import VALUE_CHARS, Rejection

ALL = "all"


@dataclass
class Pairs:
    """What a file gives.

    Args:
        path: of the file.
        name: what to call the set.
        images: path of each caption's image.
        captions: as many, as written.
        rows: as many, the line or place of each.
        rejections: what was left out.
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
            image: path of the image.
            caption: what describes it.
            row: line or place in the file.
            value: what stands there, for a rejection.
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
        """Note what is left out and why; a long value is cut."""
        self.rejections.append(Rejection(row=row, reason=reason, value=value[:VALUE_CHARS]))


def choose_split(split: str | None, known: Iterable[str], path: Path, *, default: str | None) -> str:
    """Take the split that is asked for, or the default.

    Args:
        split: what is asked for, or None.
        known: those that the file has.
        path: of the file, for the message.
        default: taken where nothing is asked for; None where the user has to choose.

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
