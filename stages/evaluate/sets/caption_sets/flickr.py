"""Captions of Flickr8k and Flickr30k: ``.token`` files, lists of splits, and the table results.csv."""

from collections.abc import Iterator
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.pairs import ALL, Pairs, choose_split
from data_schemas.pair_sources.text.text_file import BOM, line_end, open_text

TOKEN_SUFFIXES = (".token", ".token.txt")
_FLICKR8K_LISTS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}
_FLICKR30K_HEADER = ("image_name", "comment_number", "comment")


def read_token(path: Path, split: str | None) -> Pairs:
    """Read lines ``image#number<TAB>caption``; of Flickr8k only those whose image the split's list beside them names.

    Raises:
        ProtoRKDError: the file cannot be read, there is no such split, or its list is missing.
    """
    name = path.name.removesuffix(".txt").removesuffix(".token")
    is_flickr8k = name.lower().startswith("flickr8k")
    chosen = choose_split(
        split, (*(_FLICKR8K_LISTS if is_flickr8k else ()), ALL), path, default="test" if is_flickr8k else ALL
    )
    pairs = Pairs(path, f"{name}_{chosen}" if is_flickr8k else name)
    listed = _read_list(path.parent / _FLICKR8K_LISTS[chosen], needed_by=path) if chosen != ALL else None
    for row, line in _lines(path):
        reference, tab, caption = line.partition("\t")
        image, _, number = reference.rpartition("#")
        if not tab or not number.isdigit():
            pairs.reject("not picture#number<TAB>caption", row=row, value=line)
        elif listed is None or image in listed:
            pairs.add(image, caption, row=row, value=line)
    described = set(pairs.images)
    for image, row in (listed or {}).items():
        if image not in described:
            pairs.reject("no caption", row=row, value=f"{_FLICKR8K_LISTS[chosen]}, {image}")
    return pairs


def _read_list(path: Path, *, needed_by: Path) -> dict[str, int]:
    if not path.is_file():
        raise ProtoRKDError(
            f"{needed_by} must have {path.name} beside it; got nothing there. Copy it there, or take all images with "
            f"{needed_by}#{ALL}."
        )
    return {line.strip(): row for row, line in _lines(path)}


def read_flickr30k_table(path: Path, split: str | None) -> Pairs:
    """Read lines ``image| number| caption`` below their header.

    Raises:
        ProtoRKDError: the file cannot be read, or a split is asked for.
    """
    choose_split(split, (ALL,), path, default=ALL)
    pairs = Pairs(path, path.stem)
    for row, line in list(_lines(path))[1:]:
        fields = _fields(line)
        if len(fields) == len(_FLICKR30K_HEADER):
            pairs.add(fields[0], fields[2], row=row, value=line)
        else:
            pairs.reject("too few fields", row=row, value=line)
    return pairs


def is_flickr30k_table(path: Path) -> bool:
    """Check whether a text file has the header ``image_name| comment_number| comment``."""
    data = open_text(path)
    header = data[: line_end(data, 0)].removeprefix(BOM).decode()
    return _fields(header) == _FLICKR30K_HEADER


def _fields(line: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in line.split("|", maxsplit=2))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, from 1."""
    text = open_text(path)[:].removeprefix(BOM).decode()
    for row, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield row, line.removesuffix("\r")
