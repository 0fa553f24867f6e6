"""A caption set: read from whatever a path is, with its pictures found."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from stages.evaluate.caption_sets.flickr import TOKEN_SUFFIXES, is_flickr30k_table, read_flickr30k_table, read_token
from stages.evaluate.caption_sets.json_files import read_coco_folder, read_json_file
from stages.evaluate.caption_sets.pairs import ALL, Pairs, choose_split
from stages.evaluate.image_folder import split_name
from stages.manifest_format import ManifestFormat

PICTURE_FOLDERS = (
    *("images", "Images", "imgs", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("flickr8k-images", "flickr30k-images", "flickr30k_images"),
)


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
        choose_split(split, (ALL,), path, default=ALL)
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


def _reader_of(path: Path) -> Callable[[Path, str | None], Pairs] | None:
    """Choose by the path, and by the header of a text file; None for a manifest."""
    if path.is_dir():
        return read_coco_folder
    if path.suffix.lower() == ".json":
        return read_json_file
    if path.name.lower().endswith(TOKEN_SUFFIXES):
        return read_token
    return read_flickr30k_table if is_flickr30k_table(path) else None


def _find_root(pairs: Pairs, image_root: Path | None) -> Path:
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
