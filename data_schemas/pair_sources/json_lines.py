"""Pairs in JSON lines: an object a line, with an image path and a caption or a list of captions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.blocks import BLOCK_RECORDS, Block, Gathered
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.text.text_file import BOM, open_text

_MAX_LINE_BYTES = 1 << 24
_MAX_WITHOUT_KEYS = 1000  # more records than these without an image and a caption at the start are another form


def read_json_lines(shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
    """Yield the lines; rows are lines, from 1, and blank lines are not records.

    Raises:
        ProtoRKDError: no line has an image and a caption.
    """
    keys: Columns | None = None
    without: list[ProtoRKDError] = []
    gathered = Gathered(labelled=bool(columns.label))
    for row, line in _lines(shard.path):
        gathered.num_records += 1
        if not line.strip():
            continue
        entry = _parse(line)
        if isinstance(entry, str):
            gathered.reject(row, entry, line[:1000].decode(errors="replace").rstrip())
            continue
        if keys is None:
            try:
                keys = columns.chosen(list(entry), shard.path)
            except ProtoRKDError as error:
                without.append(error)
                if len(without) > _MAX_WITHOUT_KEYS:
                    raise without[0] from None
                gathered.reject(
                    row, "no key of an image or of a caption", line[:1000].decode(errors="replace").rstrip()
                )
                continue
            notes |= set(keys.notes(columns))
        _add(gathered, row, entry, keys)
        if gathered.num_records >= BLOCK_RECORDS:
            yield gathered.block()
            gathered = Gathered(labelled=bool(columns.label))
    if keys is None and without:
        raise without[0]
    if keys is None and not gathered.rejections:
        raise ProtoRKDError(f"{shard.path} must hold an object a line; got none. Check the file.")
    yield gathered.block()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    data = open_text(path)
    if data[: len(BOM)] == BOM:
        data.seek(len(BOM))
    yield from enumerate(iter(data.readline, b""), 1)


def _parse(line: bytes) -> dict[str, Any] | str:
    """Parse a line; return an object, or why it is none."""
    if len(line) > _MAX_LINE_BYTES:
        return f"a line of more than {_MAX_LINE_BYTES >> 20} MiB"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return "no JSON"
    return found if isinstance(found, dict) else "no JSON object"


def _add(gathered: Gathered, row: int, entry: dict[str, Any], keys: Columns) -> None:
    image, label = entry.get(keys.image), entry.get(keys.label) if keys.label else None
    if image is not None and not isinstance(image, str):
        gathered.reject(row, "image path is no text", repr(image))
    else:
        gathered.add(row, image or "", entry.get(keys.caption), label)
