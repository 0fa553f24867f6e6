"""Captions in JSON: COCO's ``images`` and ``annotations``, and Karpathy's ``images`` with ``sentences``."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.coco import (
    first_of,
    is_list,
    is_text,
    list_of,
    load_json,
    problem_of,
    read_coco,
    value_of,
)
from data_schemas.pair_sources.pairs import ALL, Pairs, choose_split


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
    return read_coco(load_json(path), path, name=f"{folder.resolve().name}_{chosen}")


def read_json_file(path: Path, split: str | None) -> Pairs:
    """Read captions in COCO's format where there are ``annotations``, else in Karpathy's.

    Raises:
        ProtoRKDError: the file is malformed, or has no such split.
    """
    content = load_json(path)
    if "annotations" not in content:
        return _read_karpathy(content, path, split)
    choose_split(split, (ALL,), path, default=ALL)
    return read_coco(content, path, name=path.stem)


def _read_karpathy(content: dict[str, Any], path: Path, split: str | None) -> Pairs:
    """Take every sentence of the split's images as a pair; an image whose split cannot be read is rejected in any."""
    images = list_of(content, "images", path)
    splits = {image["split"] for image in images if not problem_of(image, {"split": is_text})}
    if images and not splits:
        place, image = first_of(content, "images", path)
        value_of(image, "split", str, path, place)
    chosen = choose_split(split, (*sorted(splits), ALL), path, default="test")
    pairs = Pairs(path, f"{path.stem}_{chosen}")
    for row, image in enumerate(images):
        if reason := problem_of(image, {"split": is_text}):
            pairs.reject(reason, row=row, value=f"images[{row}]")
        elif chosen in (image["split"], ALL):
            _add_sentences(pairs, image, row)
    return pairs


def _add_sentences(pairs: Pairs, image: dict[str, Any], row: int) -> None:
    """Add an image's sentences, or reject it; or each sentence that is none."""
    place = f"images[{row}]"
    rules = {"filename": is_text, "sentences": is_list} | ({"filepath": is_text} if "filepath" in image else {})
    if reason := problem_of(image, rules):
        pairs.reject(reason, row=row, value=place)
        return
    file = str(Path(image.get("filepath", "")) / image["filename"])
    for number, sentence in enumerate(image["sentences"]):
        where = f"{place}.sentences[{number}]"
        if reason := problem_of(sentence, {"raw": is_text}):
            pairs.reject(reason, row=row, value=where)
        else:
            pairs.add(file, sentence["raw"], row=row, value=where)
    if not image["sentences"]:
        pairs.reject("no caption", row=row, value=f"{place}, {file}")
