"""Pairs as img2dataset leaves them: lists NNNNN.parquet, and images as files, in tars, or in the lists."""

import contextlib
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import VALUE_CHARS, Rejection
from data_schemas.pair_sources.blocks import BLOCK_RECORDS, Block, judge
from data_schemas.pair_sources.columns import CAPTION_KEY, Columns, choose
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.tables import joined, texts_of
from data_schemas.records.parquet import open_parquet

ENCODINGS = ("jpg", "png", "webp")
"""Image encodings of the tool, which also name its files and columns."""

_SHARD = re.compile(r"[0-9]+\.parquet")
_KEY = r"^[A-Za-z0-9_-]+$"
_REASON_CHARS = 60


def is_list(path: Path) -> bool:
    """Tell whether a parquet file is the list of an img2dataset shard."""
    if not _SHARD.fullmatch(path.name):
        return False
    try:
        names = open_parquet(path).schema_arrow.names
    except ProtoRKDError:
        return False
    return {"key", "status"} <= set(names)


def image_encoding(lists: list[Path]) -> str:
    """Return the encoding of the images of some shards; jpg where no image tells."""
    for path in lists:
        columns = open_parquet(path).schema_arrow.names
        encoding = next((each for each in ENCODINGS if each in columns), None) or _encoding_beside(path)
        if encoding is not None:
            return encoding
    return ENCODINGS[0]


def _encoding_beside(path: Path) -> str | None:
    """Return the suffix of the first image in the folder or the tar of a shard."""
    folder, tar = path.with_suffix(""), path.with_suffix(".tar")
    if folder.is_dir():
        with os.scandir(folder) as entries:
            return _first_encoding(entry.name for entry in entries)
    if tar.is_file():
        with contextlib.suppress(tarfile.TarError), tarfile.open(tar, "r:") as members:
            return _first_encoding(member.name for member in members)
    return None  # opening its images will say what is wrong


def _first_encoding(names: Iterator[str]) -> str | None:
    endings = (name.rpartition(".")[2] for name in names)
    return next((each for each in endings if each in ENCODINGS), None)


class Img2datasetReader:
    """Reader of shards whose images all have one encoding.

    Args:
        encoding: Encoding of the images: one of `ENCODINGS`.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def __call__(self, shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
        """Yield the rows of a list; rows whose status is not success are rejected and excused."""
        file = open_parquet(shard.path)
        names = file.schema_arrow.names
        others = ("caption",) if columns.caption == CAPTION_KEY else ()
        caption = choose(names, columns.caption, shard.path, flag="--caption-key", others=others)
        if caption != columns.caption:
            notes.add(f"captions are taken from {caption!r}")
        label = choose(names, columns.label, shard.path, flag="--label-column") if columns.label else None
        wanted = ["key", "status", caption, *([label] if label else [])]
        first_row = 0
        for batch in file.iter_batches(BLOCK_RECORDS, columns=wanted, use_threads=False):
            yield self._block(batch, shard, caption, label, first_row, in_list=self._encoding in names)
            first_row += batch.num_rows

    def _block(
        self, batch: pa.RecordBatch, shard: Shard, caption: str, label: str | None, first_row: int, *, in_list: bool
    ) -> Block:
        rows = pa.array(np.arange(first_row, first_row + batch.num_rows))
        keys, statuses, captions = (_texts(batch.column(name)) for name in ("key", "status", caption))
        failed = pc.not_equal(statuses.fill_null(""), "success").to_numpy(zero_copy_only=False)
        odd = ~failed & ~pc.match_substring_regex(keys.fill_null(""), _KEY).to_numpy(zero_copy_only=False)
        rejections = [
            Rejection(first_row + row, _reason(statuses[row].as_py()), f"{keys[row]}"[:VALUE_CHARS])
            for row in np.flatnonzero(failed).tolist()
        ]
        rejections += [
            Rejection(first_row + row, "no key of img2dataset", f"{keys[row]}"[:VALUE_CHARS])
            for row in np.flatnonzero(odd).tolist()
        ]
        good = pa.array(np.flatnonzero(~failed & ~odd))
        return judge(
            rows.take(good),
            self._locators(shard, keys, rows, in_list=in_list).take(good),
            captions.take(good),
            _texts(batch.column(label)).take(good) if label else None,
            num_records=batch.num_rows,
            rejections=rejections,
            num_excused=int(failed.sum()),
        )

    def _locators(self, shard: Shard, keys: pa.Array, rows: pa.Array, *, in_list: bool) -> pa.LargeStringArray:
        if in_list:
            return joined(f"{shard.name}/", rows, f"/{self._encoding}")
        stem = shard.name.removesuffix(".parquet")
        folder = f"{stem}.tar/" if shard.path.with_suffix(".tar").is_file() else f"{stem}/"
        return joined(folder, keys, f".{self._encoding}")


def _texts(column: pa.Array) -> pa.LargeStringArray:
    texts = texts_of(column)
    texts.validate(full=True)
    return texts


def _reason(status: str | None) -> str:
    return "no status" if not status else status[:_REASON_CHARS]
