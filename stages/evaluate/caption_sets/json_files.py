"""Captions in JSON: COCO's ``images`` and ``annotations``, and Karpathy's ``images`` with ``sentences``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.text_file import BOM, open_text
from stages.evaluate.caption_sets.pairs import ALL, Pairs, choose_split


def read_coco_folder(folder: Path, split: str | None) -> Pairs:
    """Read ``annotations/captions_SPLIT.json``; without a split, the only one that begins with val.

    Raises:
        ProtoRKDError: there is no such file, several would do, or it is malformed.
    """
    files = {path.stem.removeprefix("captions_"): path for path in (folder / "annotations").glob("captions_*.json")}
    if not files:
        raise ProtoRKDError(
            f"{folder} must hold annotations/captions_*.json, as COCO does; got none. Pass such a folder, or a file."
        )
    val_splits = [name for name in files if name.startswith("val")]
    chosen = choose_split(split, sorted(files), folder, default=val_splits[0] if len(val_splits) == 1 else None)
    path = files[chosen]
    return _read_coco(_load_json(path), path, name=f"{folder.resolve().name}_{chosen}")


def read_json_file(path: Path, split: str | None) -> Pairs:
    """Read captions as COCO has them where there are ``annotations``, else as Karpathy has them.

    Raises:
        ProtoRKDError: the file is malformed, or has no such split.
    """
    content = _load_json(path)
    if "annotations" not in content:
        return _read_karpathy(content, path, split)
    choose_split(split, (ALL,), path, default=ALL)
    return _read_coco(content, path, name=path.stem)


def _read_coco(content: dict[str, Any], path: Path, *, name: str) -> Pairs:
    files: dict[int | str, str] = {}
    for place, image in _entries(content, "images", path):
        image_id = _value(image, "id", int | str, path, place)
        if image_id in files:
            raise ProtoRKDError(f"{path}: {place}.id must be of one image only; got {image_id!r} again. Mend the file.")
        files[image_id] = _value(image, "file_name", str, path, place)
    pairs, described = Pairs(path, name), set()
    for row, (place, annotation) in enumerate(_entries(content, "annotations", path)):
        image_id = _value(annotation, "image_id", int | str, path, place)
        caption = _value(annotation, "caption", str, path, place)
        described.add(image_id)
        if image_id in files:
            pairs.add(files[image_id], caption, row=row, value=place)
        else:
            pairs.reject("image_id of no image", row=row, value=f"{place}, {image_id}")
    for row, (image_id, file) in enumerate(files.items()):
        if image_id not in described:
            pairs.reject("no caption", row=row, value=f"images[{row}], {file}")
    return pairs


def _read_karpathy(content: dict[str, Any], path: Path, split: str | None) -> Pairs:
    images = [
        (place, image, _value(image, "split", str, path, place)) for place, image in _entries(content, "images", path)
    ]
    chosen = choose_split(split, (*sorted({part for *_, part in images}), ALL), path, default="test")
    pairs = Pairs(path, f"{path.stem}_{chosen}")
    for row, (place, image, part) in enumerate(images):
        if chosen in (part, ALL):
            folder = _value(image, "filepath", str, path, place) if "filepath" in image else ""
            file = str(Path(folder) / _value(image, "filename", str, path, place))
            sentences = list(_entries(image, "sentences", path, f"{place}."))
            for where, sentence in sentences:
                pairs.add(file, _value(sentence, "raw", str, path, where), row=row, value=where)
            if not sentences:
                pairs.reject("no caption", row=row, value=f"{place}, {file}")
    return pairs


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(open_text(path)[:].removeprefix(BOM))
    except json.JSONDecodeError as error:
        raise ProtoRKDError(
            f"{path} must be JSON; got {error.msg} at line {error.lineno}, column {error.colno}. Is it whole?"
        ) from None
    if not isinstance(content, dict):
        raise _malformed(path, "the whole", "an object", content)
    return content


def _entries(parent: dict[str, Any], key: str, path: Path, above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list with their places, as in ``images[3].sentences[0]``."""
    entries = parent.get(key)
    if not isinstance(entries, list):
        raise _malformed(path, f"{above}{key}", "a list", entries)
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _malformed(path, f"{above}{key}[{index}]", "an object", entry)
        yield f"{above}{key}[{index}]", entry


def _value(entry: dict[str, Any], key: str, kind: Any, path: Path, place: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind):
        raise _malformed(path, f"{place}.{key}", "a string" if kind is str else "a number or a string", value)
    return value


def _malformed(path: Path, place: str, rule: str, value: object) -> ProtoRKDError:
    got = "nothing" if value is None else json.dumps(value)[:60]
    return ProtoRKDError(
        f"{path}: {place} must be {rule}; got {got}. Pass COCO's captions (images, annotations) or Karpathy's splits "
        "(images with split and sentences)."
    )
