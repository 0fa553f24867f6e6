"""Read pairs of captions that people have scored, as benchmarks of semantic textual similarity (STS) publish them."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.text.text_file import BOM, open_text

_NAMES = {
    "score": ("score", "similarity_score", "label"),
    "sentence1": ("sentence1", "sentence_1"),
    "sentence2": ("sentence2", "sentence_2"),
}
_FORMATS = (
    "Give STS-B as it is published (tab-separated, the score and the sentences in columns 5 to 7), or a tsv or csv "
    "whose header names score, sentence1 and sentence2."
)


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of captions, and how similar people found them.

    Args:
        first: First caption of each pair.
        second: Second caption of each pair.
        scores: Score of each pair, on any scale; higher means more similar.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class _Columns:
    """Where a row holds its fields; split is None where the file has no such column."""

    score: int
    first: int
    second: int
    split: int | None = None
    has_header: bool = False


def read_scored_pairs(path: Path) -> ScoredPairs:
    """Read the pairs of an STS-B file: as published, as in GLUE, or any tsv or csv with the three columns.

    A file with tabs in its first line is tab-separated, whatever its suffix, and its quotes are text; any other is
    comma-separated, with csv quoting. Without a header it holds the columns of STS-B, or the two sentences with the
    score before or after them. Where a column ``split`` says which rows are for testing, the others are left out.

    Raises:
        ProtoRKDError: the file is absent, empty or not UTF-8 text, lacks a column, or holds fewer than two pairs; a row
            is short, holds no sentence or no number; or all scores are the same.
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    columns = _find_columns(header, path=path)
    if not columns.has_header:
        rows = _rows(path)
    pairs = [_pair(row, columns, where=f"{path}:{line}") for line, row in rows if _is_wanted(row, columns)]
    if len(pairs) < 2:
        kind = "pairs" if columns.split is None else "pairs of the split test"
        raise ProtoRKDError(f"{path} must hold at least two {kind}; got {len(pairs)}. Check the file.")
    first, second, scores = zip(*pairs, strict=True)
    if min(scores) == max(scores):
        raise ProtoRKDError(
            f"Scores of {path} must differ; got {scores[0]:g} in all {len(scores)} rows. "
            "Take a split whose scores are public."
        )
    return ScoredPairs(first, second, scores)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line in which it ends."""
    text = open_text(path)[:].removeprefix(BOM).decode()
    file = io.StringIO(text, newline="\n")
    if "\t" in text.partition("\n")[0]:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise ProtoRKDError(
            f"{path} must be a table; got a row that cannot be read at line {reader.line_num}: {error}. Mend that line."
        ) from None


def _find_columns(header: Sequence[str], *, path: Path) -> _Columns:
    names = [name.strip().lower() for name in header]
    place = {
        column: next((names.index(name) for name in known if name in names), None) for column, known in _NAMES.items()
    }
    score, first, second = place.values()
    if score is not None and first is not None and second is not None:
        split = names.index("split") if "split" in names else None
        return _Columns(score, first, second, split=split, has_header=True)
    if not any(index is not None for index in place.values()):
        if len(header) >= 7 and _number(header[4]) is not None:
            return _Columns(4, 5, 6)
        if len(header) == 3 and _number(header[2]) is not None:
            return _Columns(2, 0, 1)
        if len(header) == 3 and _number(header[0]) is not None:
            return _Columns(0, 1, 2)
    missing = ", ".join(column for column, index in place.items() if index is None)
    got = ", ".join(repr(name[:40]) for name in header) or "nothing"
    raise ProtoRKDError(f"{path} must have the columns {', '.join(_NAMES)}; got {got}, without {missing}. {_FORMATS}")


def _is_wanted(row: Sequence[str], columns: _Columns) -> bool:
    return columns.split is None or columns.split >= len(row) or row[columns.split] == "test"


def _pair(row: Sequence[str], columns: _Columns, *, where: str) -> tuple[str, str, float]:
    num_fields = 1 + max(columns.score, columns.first, columns.second)
    if len(row) < num_fields:
        raise ProtoRKDError(f"{where} must have at least {num_fields} fields; got {len(row)}. Mend that line.")
    first, second = row[columns.first].strip(), row[columns.second].strip()
    if not first or not second:
        raise ProtoRKDError(f"{where} must hold two sentences; got {first!r} and {second!r}. Mend that line.")
    score = _number(row[columns.score])
    if score is None:
        raise ProtoRKDError(f"{where} must hold a score; got {row[columns.score]!r}. Mend that line.")
    return first, second, score


def _number(field: str) -> float | None:
    """Return a finite number, or None where there is none."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
