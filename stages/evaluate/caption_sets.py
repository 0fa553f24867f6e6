"""Pictures with captions, in the formats that people have: COCO, Karpathy's splits, Flickr8k, Flickr30k, manifests."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.text_file import BOM, line_end, open_text
from stages.evaluate.image_folder import split_name
from stages.manifest_format import ManifestFormat

ALL = "all"
PICTURE_FOLDERS = (
    *("images", "Images", "imgs", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr8k-images", "flickr30k-images", "flickr30k_images"),
)

_TOKEN_SUFFIXES = (".token", ".token.txt")
_FLICKR8K_LISTS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}
_FLICKR30K_HEADER = ("image_name", "comment_number", "comment")
_VALUE_CHARS = 200


@dataclass(frozen=True)
class CaptionSet:
    """Pairs of pictures and captions; the pairs of one picture share its path.

    Args:
        name: what reports call it, unless the user names it.
        root: folder that relative paths start from.
        images: path of each caption's picture.
        captions: as many, in the order of the file, as written.
        rejections: what was left out; ``row`` is the line of a text file, and in JSON the place, from 0, in the list
            that ``value`` names.
    """

    name: str
    root: Path
    images: tuple[str, ...]
    captions: tuple[str, ...]
    rejections: tuple[Rejection, ...]


@dataclass
class _Pairs:
    """What a file gives: its path, what to call the set, and as many images as captions."""

    path: Path
    name: str
    images: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def add(self, image: str, caption: str, *, row: int, value: str) -> None:
        if not caption.strip():
            self.reject("empty caption", row=row, value=value)
        elif not image.strip():
            self.reject("empty image path", row=row, value=value)
        else:
            self.images.append(image)
            self.captions.append(caption)

    def reject(self, reason: str, *, row: int, value: str) -> None:
        self.rejections.append(Rejection(row=row, reason=reason, value=value[:_VALUE_CHARS]))


def split_argument(argument: str) -> tuple[str | None, Path, str | None]:
    """Take ``NAME=PATH#SPLIT`` apart; a path that exists as written keeps its ``=`` and its ``#``.

    Raises:
        ProtoRKDError: nothing stands before or after the equals sign.

    Example:
        >>> split_argument("coco=/data/dataset_coco.json#val")
        ('coco', PosixPath('/data/dataset_coco.json'), 'val')
    """
    name, path = split_name(argument)
    if "#" not in path.name or path.exists():
        return name, path, None
    bare, _, split = argument.rpartition("#")
    return (*split_name(bare), split)


def read_caption_set(
    path: Path, *, split: str | None = None, image_root: Path | None = None, form: ManifestFormat
) -> CaptionSet:
    """Read a caption set; what the path is decides how.

    - A folder: COCO's, with ``annotations/captions_SPLIT.json``; its only val split by default.
    - ``.json``: COCO's ``images`` and ``annotations``; or Karpathy's ``images`` with ``sentences``, of which the test
      split by default.
    - ``.token`` or ``.token.txt``: Flickr's ``picture#number<TAB>caption``; of Flickr8k the pictures that
      Flickr_8k.testImages.txt beside it lists by default, of Flickr30k, which has no such lists, all.
    - A text file with the header ``image_name| comment_number| comment``: Flickr30k's results.csv.
    - Anything else: a manifest.

    Every caption is kept, also where a picture has more than the usual five. Where a set is no manifest, its pictures
    are looked for beside the file and one folder above: there, in a folder called as the split, and in
    `PICTURE_FOLDERS`. A single missing picture stays in the set: it is rejected where pictures are opened.

    Args:
        path: file or folder.
        split: the part to read; ``all`` reads a file whole.
        image_root: where to look for pictures instead; relative paths of a manifest start there.
        form: how a manifest is written.

    Raises:
        ProtoRKDError: the file cannot be read, is malformed, or has no such split or no captions; none of its pictures
            can be found.
    """
    reader = _reader_of(path)
    if reader is None:
        _choose(split, (ALL,), path, default=ALL)
        manifest = form.read(path, max_bad_fraction=1.0)
        images, captions = (tuple(manifest.table[column].to_pylist()) for column in ("image", "caption"))
        return CaptionSet(path.stem, image_root or path.resolve().parent, images, captions, manifest.rejections)
    pairs = reader(path, split)
    if not pairs.images:
        first = f", the first {pairs.rejections[0].value!r}: {pairs.rejections[0].reason}" if pairs.rejections else ""
        raise ProtoRKDError(
            f"{pairs.path} must hold captions of pictures; got none in {pairs.name}, and {len(pairs.rejections)} "
            f"rejected entries{first}. Check the file."
        )
    root = _find_root(pairs, image_root)
    return CaptionSet(pairs.name, root, tuple(pairs.images), tuple(pairs.captions), tuple(pairs.rejections))


def _reader_of(path: Path) -> Callable[[Path, str | None], _Pairs] | None:
    """Choose by the path, and by the header of a text file; None for a manifest."""
    if path.is_dir():
        return _read_coco_folder
    if path.suffix.lower() == ".json":
        return _read_json
    if path.name.lower().endswith(_TOKEN_SUFFIXES):
        return _read_token
    data = open_text(path)
    header = data[: line_end(data, 0)].removeprefix(BOM).decode()
    return _read_flickr30k_table if _fields(header) == _FLICKR30K_HEADER else None


def _read_coco_folder(folder: Path, split: str | None) -> _Pairs:
    files = {path.stem.removeprefix("captions_"): path for path in (folder / "annotations").glob("captions_*.json")}
    if not files:
        raise ProtoRKDError(
            f"{folder} must hold annotations/captions_*.json, as COCO does; got none. Pass such a folder, or a file."
        )
    val_splits = [name for name in files if name.startswith("val")]
    chosen = _choose(split, sorted(files), folder, default=val_splits[0] if len(val_splits) == 1 else None)
    path = files[chosen]
    return _read_coco(_load_json(path), path, name=f"{folder.resolve().name}_{chosen}")


def _read_json(path: Path, split: str | None) -> _Pairs:
    content = _load_json(path)
    if "annotations" not in content:
        return _read_karpathy(content, path, split)
    _choose(split, (ALL,), path, default=ALL)
    return _read_coco(content, path, name=path.stem)


def _read_coco(content: dict[str, Any], path: Path, *, name: str) -> _Pairs:
    files: dict[int | str, str] = {}
    for place, image in _entries(content, "images", path):
        image_id = _value(image, "id", int | str, path, place)
        if image_id in files:
            raise ProtoRKDError(f"{path}: {place}.id must be of one image only; got {image_id!r} again. Mend the file.")
        files[image_id] = _value(image, "file_name", str, path, place)
    pairs, described = _Pairs(path, name), set()
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


def _read_karpathy(content: dict[str, Any], path: Path, split: str | None) -> _Pairs:
    images = [
        (place, image, _value(image, "split", str, path, place)) for place, image in _entries(content, "images", path)
    ]
    chosen = _choose(split, (*sorted({part for *_, part in images}), ALL), path, default="test")
    pairs = _Pairs(path, f"{path.stem}_{chosen}")
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


def _read_token(path: Path, split: str | None) -> _Pairs:
    name = path.name.removesuffix(".txt").removesuffix(".token")
    is_flickr8k = name.lower().startswith("flickr8k")
    chosen = _choose(
        split, (*(_FLICKR8K_LISTS if is_flickr8k else ()), ALL), path, default="test" if is_flickr8k else ALL
    )
    pairs = _Pairs(path, f"{name}_{chosen}" if is_flickr8k else name)
    listed = _read_list(path.parent / _FLICKR8K_LISTS[chosen], needed_by=path) if chosen != ALL else None
    for row, line in _lines(path):
        picture, tab, caption = line.partition("\t")
        image, _, number = picture.rpartition("#")
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
            f"{needed_by} must have {path.name} beside it; got nothing there. Copy it there, or take all pictures with "
            f"{needed_by}#{ALL}."
        )
    return {line.strip(): row for row, line in _lines(path)}


def _read_flickr30k_table(path: Path, split: str | None) -> _Pairs:
    _choose(split, (ALL,), path, default=ALL)
    pairs = _Pairs(path, path.stem)
    for row, line in list(_lines(path))[1:]:
        fields = _fields(line)
        if len(fields) == len(_FLICKR30K_HEADER):
            pairs.add(fields[0], fields[2], row=row, value=line)
        else:
            pairs.reject("too few fields", row=row, value=line)
    return pairs


def _fields(line: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in line.split("|", maxsplit=2))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, from 1."""
    text = open_text(path)[:].removeprefix(BOM).decode()
    for row, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield row, line.removesuffix("\r")


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


def _choose(split: str | None, known: Iterable[str], path: Path, *, default: str | None) -> str:
    chosen = default if split is None else split
    known = list(known)
    if chosen not in known:
        got = "none" if chosen is None else repr(chosen)
        raise ProtoRKDError(
            f"Split of {path} must be one of {', '.join(known)}; got {got}. Choose it as in {path}#{known[0]}."
        )
    return chosen


def _find_root(pairs: _Pairs, image_root: Path | None) -> Path:
    """Find the folder that the paths of the pictures start from: the first in which one of them lies."""
    folder = pairs.path.parent.resolve()
    own = pairs.path.stem.removeprefix("captions_")
    below = ("", own, *PICTURE_FOLDERS, *(f"{name}/{own}" for name in PICTURE_FOLDERS))
    bases = [image_root.resolve()] if image_root else [folder, folder.parent]
    distinct = dict.fromkeys(pairs.images)
    for root in (base / name for base in bases for name in below):
        if root.is_dir() and any((root / image).is_file() for image in distinct):
            return root
    raise ProtoRKDError(
        f"Pictures of {pairs.path} must lie below {' or '.join(map(str, bases))}; got none of {len(distinct):,} there, "
        f"for instance no {pairs.images[0]}. Pass --image-root."
    )
