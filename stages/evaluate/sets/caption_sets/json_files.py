"""Captions in JSON: COCO's ``images`` and ``annotations``, and Karpathy's ``images`` with ``sentences``."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.coco import entries, load_json, read_coco, value_of
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
    images = [
        (place, image, value_of(image, "split", str, path, place)) for place, image in entries(content, "images", path)
    ]
    chosen = choose_split(split, (*sorted({part for *_, part in images}), ALL), path, default="test")
    pairs = Pairs(path, f"{path.stem}_{chosen}")
    for row, (place, image, part) in enumerate(images):
        if chosen in (part, ALL):
            folder = value_of(image, "filepath", str, path, place) if "filepath" in image else ""
            file = str(Path(folder) / value_of(image, "filename", str, path, place))
            sentences = list(entries(image, "sentences", path, f"{place}."))
            for where, sentence in sentences:
                pairs.add(file, value_of(sentence, "raw", str, path, where), row=row, value=where)
            if not sentences:
                pairs.reject("no caption", row=row, value=f"{place}, {file}")
    return pairs
