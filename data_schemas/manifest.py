"""Manifests: text tables of image paths and captions, one pair a row, as users and earlier tools write them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError

SCHEMA = pa.schema({"row": pa.int64(), "image": pa.large_string(), "caption": pa.large_string()})
LABELLED_SCHEMA = SCHEMA.append(pa.field("label", pa.large_string()))

AUTO = "auto"
VALUE_CHARS = 200
NO_CAPTION_KEY = "no caption in a sample"
SEVERAL_CAPTION_KEYS = "several keys of a caption"
KEY_TWICE = "a key that comes twice"
_ADVICE = {
    KEY_TWICE: "Members of a sample must be neighbours: an unsorted tar is made anew with tar --sort=name.",
    SEVERAL_CAPTION_KEYS: "Name the captions' key with --caption-key.",
    NO_CAPTION_KEY: "Name the ending or JSON key of captions with --caption-key.",
}
"""What to do about a reason, beyond mending the file; the first counts."""

_REASONS = (
    "accepted",
    "too few fields",
    "too many fields",
    "malformed quoted field",
    "empty caption",
    "empty image path",
)


@dataclass(frozen=True)
class Rejection:
    """A row that is left out of the pairs.

    Args:
        row: In a text file, the line in which the row begins, as an editor counts; the header is line 1. Elsewhere the
            number of the record, from 0, over all files.
        reason: Short sentence, one of a fixed few.
        value: The row as it stands in the file, cut to 200 characters.
    """

    row: int
    reason: str
    value: str


@dataclass(frozen=True)
class Manifest:
    """The pairs of a manifest in file order, and the rows that were left out.

    Args:
        path: Path of the file.
        table: One pair a row: ``row`` (int64, as in `Rejection`), ``image`` and ``caption`` (large_string, as written,
            byte for byte); where labels were asked for, also ``label`` (large_string, null where blank).
        rejections: Rows that are not in the table, in file order.
        quoting: ``csv`` or ``none``, as the file was read.
        notes: Choices that the reader made, such as a column of another name, for the log.
    """

    path: Path
    table: pa.Table
    rejections: tuple[Rejection, ...]
    quoting: str
    notes: tuple[str, ...] = ()


def check_rejected(
    path: Path,
    *,
    num_pairs: int,
    num_rejected: int,
    reasons: Counter[str],
    first: Callable[[], Sequence[Rejection]],
    max_bad_fraction: float,
    num_excused: int = 0,
) -> None:
    """Raise if no pairs are left, or too many rows are rejected.

    Args:
        path: Path of the manifest, for the message.
        num_pairs: Number of pairs left.
        num_rejected: Number of rejected rows.
        reasons: Number of rejected rows by reason.
        first: Returns the first few rejections.
        max_bad_fraction: Share of the rows that may be rejected.
        num_excused: Number of rejected rows that do not count towards that share.

    Raises:
        ProtoRKDError: there are no pairs, or too many rejected rows.
    """
    num_rows, num_bad = num_pairs + num_rejected, num_rejected - num_excused
    if not num_rows:
        raise ProtoRKDError(f"{path} must hold pairs; got no records. Check the path.")
    if num_pairs and num_bad / (num_rows - num_excused) <= max_bad_fraction:
        return
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    places = "".join(f"\n  {path}:{each.row}: {each.reason}: {each.value!r}" for each in first())
    rule = f"at most a share of {max_bad_fraction:g}" if num_pairs else "not all"
    advice = next((f"{advice} Else mend" for reason, advice in _ADVICE.items() if reason in reasons), "Mend")
    raise ProtoRKDError(
        f"Rejected rows of {path} must be {rule}; got {num_rejected:,} of {num_rows:,} ({counts})."
        f" The first:{places}\n{advice} the file{' or raise --max-bad-fraction' if num_pairs else ''}."
    )


def is_blank(column: pa.LargeStringArray) -> npt.NDArray[np.bool_]:
    """Tell which texts are empty or white space.

    Shapes:
        returns: (texts,), bool.
    """
    blank = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    result: npt.NDArray[np.bool_] = blank.to_numpy(zero_copy_only=False)
    return result
