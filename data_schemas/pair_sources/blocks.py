"""Blocks of pairs from any reader, judged by one rule."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import LABELLED_SCHEMA, SCHEMA, VALUE_CHARS, Manifest, Rejection, check_rejected, is_blank
from data_schemas.records.record import BROKEN

BLOCK_RECORDS = 1 << 16
"""Number of records in a block."""


@dataclass(frozen=True)
class Block:
    """Some consecutive records of a file.

    Args:
        num_records: Number of records in the block, pairs or not.
        table: The pairs: row, image, caption, and label where one was asked for; rows count within the file.
        rejections: Records that are not pairs, in the order of the file.
        num_excused: Number of rejections that are no fault of the file, such as images that a downloader did not get.
    """

    num_records: int
    table: pa.Table
    rejections: Sequence[Rejection] = ()
    num_excused: int = 0


@dataclass
class Gathered:
    """A block under construction, for readers that go through records one by one.

    Args:
        labelled: Whether labels are kept.
    """

    labelled: bool
    num_records: int = 0
    rows: list[int] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def add(self, row: int, image: str, captions: object, label: object = None) -> None:
        """Add a record: one caption, or a list of captions that each make a pair.

        Args:
            row: Row of the record.
            image: Path or locator of the image.
            captions: Captions as the file has them; anything but text is rejected.
            label: Text, number or None.
        """
        for caption in captions if isinstance(captions, list) and captions else [captions]:
            if caption is None or caption == []:
                self.reject(row, "empty caption", image)
            elif not isinstance(caption, str):
                self.reject(row, "caption is no text", f"{image}: {caption!r:.{VALUE_CHARS}}")
            elif not (is_unicode(caption) and is_unicode(image)):
                self.reject(row, "text that is no Unicode", image.encode(errors="replace").decode())
            elif not isinstance(label, str | int | None):
                self.reject(row, "label is no text", f"{image}: {label!r:.{VALUE_CHARS}}")
            else:
                self.rows.append(row)
                self.images.append(image)
                self.captions.append(caption)
                self.labels.append(None if label is None else str(label))

    def reject(self, row: int, reason: str, value: str) -> None:
        """Note a record that is not a pair."""
        self.rejections.append(Rejection(row, reason, value[:VALUE_CHARS]))

    def block(self) -> Block:
        """Judge the gathered records and return them as a block."""
        return judge(
            pa.array(self.rows, pa.int64()),
            pa.array(self.images, pa.large_string()),
            pa.array(self.captions, pa.large_string()),
            pa.array(self.labels, pa.large_string()) if self.labelled else None,
            num_records=self.num_records,
            rejections=self.rejections,
        )


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written as UTF-8; half of a surrogate pair, which JSON allows, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def judge(
    rows: pa.Array,
    images: pa.LargeStringArray,
    captions: pa.LargeStringArray,
    labels: pa.LargeStringArray | None,
    *,
    num_records: int,
    rejections: Sequence[Rejection] = (),
    num_excused: int = 0,
) -> Block:
    """Take the pairs that have an image and a caption, and reject the others.

    Args:
        rows: Rows of the records.
        images: Paths or locators, null where there is none.
        captions: Captions, null where there is none.
        labels: Labels, blank or null where there is none; None if no labels were asked for.
        num_records: Number of records, those already rejected included.
        rejections: Records that are already rejected.
        num_excused: Number of those that are no fault of the file.
    """
    images, captions = images.fill_null(""), captions.fill_null("")
    verdicts = np.zeros(len(rows), np.int64)
    verdicts[_has_nul(captions) | _has_nul(images)] = 3
    verdicts[is_blank(images)] = 2
    verdicts[is_blank(captions)] = 1
    reasons = ("", "empty caption", "empty image path", "NUL character")
    rejected = np.flatnonzero(verdicts)
    columns = [rows, images, captions]
    all_rejections = list(rejections)
    if len(rejected):
        kept = pa.array(np.flatnonzero(verdicts == 0))
        bad = [column.take(pa.array(rejected)).to_pylist() for column in columns]
        all_rejections += [
            Rejection(row, reasons[verdict], f"{image}\t{caption}"[:VALUE_CHARS])
            for row, image, caption, verdict in zip(*bad, verdicts[rejected].tolist(), strict=True)
        ]
        columns = [column.take(kept) for column in columns]
        labels = None if labels is None else labels.take(kept)
    if labels is not None:
        columns.append(pc.if_else(pa.array(is_blank(labels.fill_null(""))), None, labels))
    schema = SCHEMA if labels is None else LABELLED_SCHEMA
    all_rejections.sort(key=lambda rejection: rejection.row)
    return Block(num_records, pa.Table.from_arrays(columns, schema=schema), tuple(all_rejections), num_excused)


def _has_nul(texts: pa.LargeStringArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.match_substring(texts, "\0").to_numpy(zero_copy_only=False)
    return found


def join_blocks(
    files: Iterable[tuple[Path, Iterable[Block]]],
    place: Path,
    *,
    labelled: bool,
    limit: int,
    max_bad_fraction: float,
    notes: Collection[str] = (),
) -> Manifest:
    """Concatenate blocks into a manifest; rows go on counting from file to file.

    Args:
        files: Each file with its blocks.
        place: What the user named, for messages.
        labelled: Whether the blocks have labels.
        limit: Take the first so many pairs; 0 takes all.
        max_bad_fraction: Rejected records beyond this share are an error; excused ones do not count.
        notes: Choices that the reader made, for the log; complete when all blocks are read.

    Raises:
        ProtoRKDError: a file is damaged, there are no pairs, or too many records are rejected.
    """
    tables = [(LABELLED_SCHEMA if labelled else SCHEMA).empty_table()]
    rejections: list[Rejection] = []
    num_pairs = num_records = num_excused = before = 0
    for path, blocks in files:
        for block in _sound(blocks, path):
            kept = _cut(block, limit - num_pairs) if limit else block
            rows = pc.add(kept.table["row"], before)
            tables.append(kept.table.set_column(0, "row", rows))
            rejections += (Rejection(each.row + before, each.reason, each.value) for each in kept.rejections)
            num_pairs += kept.table.num_rows
            num_records += block.num_records
            num_excused += kept.num_excused
            if limit and num_pairs >= limit:
                break
        if limit and num_pairs >= limit:
            break
        before = num_records
    check_rejected(
        place,
        num_pairs=num_pairs,
        num_rejected=len(rejections),
        num_excused=num_excused,
        reasons=Counter(each.reason for each in rejections),
        first=lambda: rejections[:3],
        max_bad_fraction=max_bad_fraction,
    )
    return Manifest(place, pa.concat_tables(tables), tuple(rejections), "none", tuple(sorted(notes)))


def _sound(blocks: Iterable[Block], path: Path) -> Iterator[Block]:
    done = 0
    try:
        for block in blocks:
            yield block
            done += block.num_records
    except BROKEN as error:
        raise ProtoRKDError(
            f"{path} must be whole and what its name says; {error}, after record {done}. Fetch or save it again."
        ) from error


def _cut(block: Block, num: int) -> Block:
    """Leave out what follows the last wanted pair."""
    if block.table.num_rows < num:
        return block
    table = block.table.slice(0, num)
    last = table["row"][num - 1].as_py()
    rejections = tuple(each for each in block.rejections if each.row <= last)
    return Block(block.num_records, table, rejections, min(block.num_excused, len(rejections)))
