"""Pairs in tars as webdataset takes them: neighbouring members with one key are one sample."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_schemas.manifest import KEY_TWICE, NO_CAPTION_KEY, SEVERAL_CAPTION_KEYS
from data_schemas.pair_sources.blocks import BLOCK_RECORDS, Block, Gathered
from data_schemas.pair_sources.columns import CAPTION_KEY, IMAGE_KEY, Columns, caption_key, caption_keys
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.text.text_file import BOM
from data_schemas.records.record import UnreadableRecord, read_range

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
_CAPTION_ENDINGS = ("txt", "caption", "text")
_MAX_TEXT_BYTES = 1 << 24

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # key, up to the first dot of the name, and ending


@dataclass(frozen=True)
class _Member:
    key: str
    ending: str
    name: str
    offset: int
    size: int
    problem: str | None


class _RejectedSample(Exception):  # noqa: N818 -- a verdict
    """A sample is not a pair; args are the reason and the member's name."""


def read_webdataset(shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
    """Yield the samples; rows count them, from 0. An image's locator is the tar's name and the member's."""
    seen: set[str] = set()
    gathered = Gathered(labelled=bool(columns.label))
    samples = itertools.groupby(_members(shard), key=lambda member: member.key)
    for row, (key, sample) in enumerate(samples):
        gathered.num_records += 1
        members = list(sample)
        try:
            if key in seen:
                raise _RejectedSample(KEY_TWICE, key)
            seen.add(key)
            image = _image(members, columns.image)
            captions, label = _captions(shard, members, columns)
            gathered.add(row, f"{shard.name}/{image.name}", captions, label)
        except _RejectedSample as error:
            gathered.reject(row, *error.args)
        if gathered.num_records >= BLOCK_RECORDS:
            yield gathered.block()
            gathered = Gathered(labelled=bool(columns.label))
    yield gathered.block()


def _members(shard: Shard) -> Iterator[_Member]:
    table = shard.list_members(shard.path)
    for name, *rest in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
        match = _MEMBER.fullmatch(name)
        if match is not None:
            yield _Member(match[1], match[2].lower(), name, *rest)


def _image(members: Sequence[_Member], asked: str) -> _Member:
    endings = IMAGE_ENDINGS if asked == IMAGE_KEY else (asked.lower(),)
    images = [member for member in members if member.ending in endings]
    images = images or [member for member in members if member.ending.rpartition(".")[2] in endings]
    if len(images) != 1:
        raise _RejectedSample("several pictures in a sample" if images else "no picture in a sample", members[0].name)
    [image] = images
    if image.problem:
        raise _RejectedSample(image.problem, image.name)
    return image


def _captions(shard: Shard, members: Sequence[_Member], columns: Columns) -> tuple[Any, Any]:
    """Return the captions and the label of a sample, as its members hold them."""
    by_ending = {member.ending: member for member in members}
    facts: dict[str, Any] | None = None

    def from_json() -> dict[str, Any]:
        nonlocal facts
        if facts is None:
            facts = _read_json(shard, by_ending["json"]) if "json" in by_ending else {}
        return facts

    endings = _CAPTION_ENDINGS if columns.caption == CAPTION_KEY else (columns.caption,)
    member = next((by_ending[ending] for ending in endings if ending in by_ending), None)
    if member is not None:
        captions: Any = _read_text(shard, member)
    else:
        captions = from_json()[_caption_key(members, list(from_json()), columns.caption)]
    if not columns.label:
        return captions, None
    if columns.label in by_ending:
        return captions, _read_text(shard, by_ending[columns.label])
    return captions, from_json().get(columns.label)


def _caption_key(members: Sequence[_Member], keys: Sequence[str], asked: str) -> str:
    """Choose the JSON key of a sample's caption.

    Raises:
        _RejectedSample: there is none, or several might be meant.
    """
    key = caption_key(keys, asked)
    if key is not None:
        return key
    has_json = any(member.ending == "json" for member in members)
    there = keys if has_json else [member.ending for member in members]
    what = SEVERAL_CAPTION_KEYS if asked == CAPTION_KEY and caption_keys(keys) else NO_CAPTION_KEY
    where = f"{members[0].key}{'.json' if has_json else ''}"
    raise _RejectedSample(what, f"{where} has {', '.join(there) or 'nothing'}")


def _read_text(shard: Shard, member: _Member) -> str:
    try:
        text = _read(shard, member).removeprefix(BOM).decode()
    except UnicodeDecodeError:
        raise _RejectedSample("text that is no Unicode", member.name) from None
    return text.removesuffix("\n").removesuffix("\r")


def _read_json(shard: Shard, member: _Member) -> dict[str, Any]:
    try:
        content = json.loads(_read(shard, member))
    except (ValueError, RecursionError):
        raise _RejectedSample("no JSON", member.name) from None
    if not isinstance(content, dict):
        raise _RejectedSample("no JSON object", member.name)
    return content


def _read(shard: Shard, member: _Member) -> bytes:
    if member.problem:
        raise _RejectedSample(member.problem, member.name)
    if member.size > _MAX_TEXT_BYTES:
        raise _RejectedSample(f"a text of more than {_MAX_TEXT_BYTES >> 20} MiB", member.name)
    try:
        return read_range(shard.path, member.offset, member.size)
    except UnreadableRecord as error:
        raise _RejectedSample(error.reason, member.name) from None
