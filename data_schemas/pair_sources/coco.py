"""COCO's captions: ``images`` with file names, and ``annotations``, each a caption of one of them."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.blocks import Block, is_unicode, judge
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.pairs import Pairs
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.text.text_file import BOM, COMPRESSIONS, open_text

IMAGE_FOLDERS = (
    *("images", "Images", "imgs", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr8k-images", "flickr30k-images", "flickr30k_images"),
)
"""Usual names of the folder of images beside a file of captions."""


def read_coco_captions(shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
    """Yield the captions of a file as one block.

    Raises:
        ProtoRKDError: it is malformed, or a column of labels is asked for.
    """
    content = load_json(shard.path)
    if columns.label:
        raise ProtoRKDError(f"--label-column must be left out for COCO's captions; got {columns.label!r}.")
    if "annotations" not in content:
        raise ProtoRKDError(
            f"{shard.path} must hold COCO's captions (images, annotations); got {', '.join(map(repr, content))[:200]}. "
            "Karpathy's splits are for evaluate --retrieval; a manifest of objects has one a line (.jsonl)."
        )
    pairs = read_coco(content, shard.path, name=shard.name)
    yield judge(
        pa.array(pairs.rows, pa.int64()),
        pa.array(pairs.images, pa.large_string()),
        pa.array(pairs.captions, pa.large_string()),
        None,
        num_records=len(pairs.rows) + len(pairs.rejections),
        rejections=pairs.rejections,
    )


def find_images(path: Path, images: dict[str, None], image_root: Path | None = None) -> Path:
    """Find the folder that image paths start from: the first candidate in which one of the images lies.

    Candidates are the folder of the file and its parent: each itself, a subfolder named like the file without
    ``captions_``, and `IMAGE_FOLDERS`.

    Args:
        path: Path of the file.
        images: Names of the images, as the file has them.
        image_root: Folder to look in instead.

    Raises:
        ProtoRKDError: none of them lies there.
    """
    folder = path.parent.resolve()
    stem = Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem
    own = stem.removeprefix("captions_")
    below = ("", own, *IMAGE_FOLDERS, *(f"{name}/{own}" for name in IMAGE_FOLDERS))
    bases = [image_root.resolve()] if image_root else [folder, folder.parent]
    for root in (base / name for base in bases for name in below):
        if root.is_dir() and any((root / image).is_file() for image in images):
            return root
    raise ProtoRKDError(
        f"Images of {path} must lie below {' or '.join(map(str, bases))}; got none of {len(images):,} there, "
        f"for instance no {next(iter(images))}. Pass --image-root."
    )


def read_coco(content: dict[str, Any], path: Path, *, name: str) -> Pairs:
    """Take every caption as a pair; rows are indexes into ``annotations``, or into ``images`` where those are rejected.

    An ``image_id`` in text means the image whose ``id`` is that number, and the other way round.

    Args:
        content: Parsed content of the file.
        path: Path of the file.
        name: Name of the set.

    Raises:
        ProtoRKDError: it has no lists of images and annotations, or not one of either can be used.
    """
    pairs = Pairs(path, name)
    files, shared = _image_files(content, path, pairs)
    by_text = {str(image_id): image_id for image_id in files}
    described, num_read = set(), 0
    annotations = list_of(content, "annotations", path)
    for row, annotation in enumerate(annotations):
        place = f"annotations[{row}]"
        reason = problem_of(annotation, {"image_id": is_id})
        if not reason:
            image_id = annotation["image_id"]
            image_id = image_id if image_id in files else by_text.get(str(image_id), image_id)
            described.add(image_id)
            reason = problem_of(annotation, {"caption": is_text})
        num_read += not reason
        if reason:
            pairs.reject(reason, row=row, value=place)
        elif image_id in shared:
            pairs.reject("image_id of several images", row=row, value=f"{place}, {image_id}")
        elif image_id in files:
            pairs.add(files[image_id][1], annotation["caption"], row=row, value=place)
        else:
            pairs.reject("image_id of no image", row=row, value=f"{place}, {image_id}")
    if annotations and not num_read:
        place, annotation = first_of(content, "annotations", path)
        value_of(annotation, "image_id", int | str, path, place)
        value_of(annotation, "caption", str, path, place)
    for image_id, (row, file) in files.items():
        if image_id not in described:
            pairs.reject("no caption", row=row, value=f"images[{row}], {file}")
    return pairs


def _image_files(
    content: dict[str, Any], path: Path, pairs: Pairs
) -> tuple[dict[int | str, tuple[int, str]], set[int | str]]:
    """Return place and file name of each id, and the ids of which several files have one; reject what is no image."""
    files: dict[int | str, tuple[int, str]] = {}
    shared: set[int | str] = set()
    images = list_of(content, "images", path)
    for row, image in enumerate(images):
        place = f"images[{row}]"
        if reason := problem_of(image, {"id": is_id, "file_name": is_text}):
            pairs.reject(reason, row=row, value=place)
        elif image["id"] in files:
            pairs.reject("an id that comes twice", row=row, value=f"{place}, {image['id']}")
            if files[image["id"]][1] != image["file_name"]:
                shared.add(image["id"])
        else:
            files[image["id"]] = row, image["file_name"]
    if images and not files:
        place, image = first_of(content, "images", path)
        value_of(image, "id", int | str, path, place)
        value_of(image, "file_name", str, path, place)
    return files, shared


def problem_of(entry: Any, rules: Mapping[str, Callable[[Any], bool]]) -> str:
    """Say why an entry is no record, or return "".

    Args:
        entry: Entry of a list, as parsed.
        rules: What the value of a key must be: `is_id`, `is_text` or `is_list`.
    """
    if not isinstance(entry, dict):
        return "no JSON object"
    for key, holds in rules.items():
        value = entry.get(key)
        if value is None:
            return f"empty {key}"
        if not holds(value):
            return f"{key} is no {_KINDS[holds]}"
        if isinstance(value, str) and not is_unicode(value):
            return "text that is no Unicode"
    return ""


def is_id(value: Any) -> bool:
    """Tell whether a value can be the id of an image."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def is_list(value: Any) -> bool:
    """Tell whether a value is a list."""
    return isinstance(value, list)


_KINDS: dict[Callable[[Any], bool], str] = {is_id: "number or text", is_text: "text", is_list: "list"}


def load_json(path: Path) -> dict[str, Any]:
    """Read a file that holds an object.

    Raises:
        ProtoRKDError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(open_text(path)[:].removeprefix(BOM))
    except (RecursionError, ValueError) as error:
        if isinstance(error, RecursionError):
            raise ProtoRKDError(f"{path} must be JSON of few levels; got one within thousands.") from None
        if not isinstance(error, json.JSONDecodeError):
            raise ProtoRKDError(f"{path} must be JSON with numbers of a usual length; {error}.") from None
        raise ProtoRKDError(
            f"{path} must be JSON; got {error.msg} at line {error.lineno}, column {error.colno}. Is it whole?"
        ) from None
    if not isinstance(content, dict):
        raise _malformed(path, "the whole", "an object", content)
    return content


def first_of(parent: dict[str, Any], key: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the first object of a list with its place, as in ``images[0]``.

    Raises:
        ProtoRKDError: it is no object.
    """
    place, entry = f"{key}[0]", list_of(parent, key, path)[0]
    if not isinstance(entry, dict):
        raise _malformed(path, place, "an object", entry)
    return place, entry


def list_of(parent: dict[str, Any], key: str, path: Path) -> list[Any]:
    """Take a list of a file.

    Raises:
        ProtoRKDError: it is absent, or something else.
    """
    found = parent.get(key)
    if not isinstance(found, list):
        raise _malformed(path, key, "a list", found)
    return found


def value_of(entry: dict[str, Any], key: str, kind: Any, path: Path, place: str) -> Any:
    """Take a value of an object, and check its type.

    Raises:
        ProtoRKDError: it is absent, of another type, or text that is not Unicode.
    """
    value = entry.get(key)
    if not isinstance(value, kind) or (isinstance(value, str) and not is_unicode(value)):
        raise _malformed(path, f"{place}.{key}", "a string" if kind is str else "a number or a string", value)
    return value


def _malformed(path: Path, place: str, rule: str, value: object) -> ProtoRKDError:
    got = "nothing" if value is None else json.dumps(value)[:60]
    return ProtoRKDError(
        f"{path}: {place} must be {rule}; got {got}. Pass COCO's captions (images, annotations) or Karpathy's splits "
        "(images with split and sentences)."
    )
