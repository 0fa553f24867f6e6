"""Read a caption set from a path in any known format, and find its images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_sources.coco import find_images
from data_schemas.pair_sources.kinds import find_image_root, find_source
from data_schemas.pair_sources.pairs import ALL, Pairs, choose_split
from data_schemas.pair_sources.patterns import is_pattern, pattern_root
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.manifest_options import ManifestFormat
from stages.evaluate.sets.caption_sets.flickr import (
    TOKEN_SUFFIXES,
    is_flickr30k_table,
    read_flickr30k_table,
    read_token,
)
from stages.evaluate.sets.caption_sets.json_files import read_coco_folder, read_json_file
from stages.evaluate.sets.image_folder import split_name

_TABLE_SUFFIXES = (".csv", ".txt", ".tsv")


@dataclass(frozen=True)
class CaptionSet:
    """Pairs of images and captions; the pairs of one image share its path.

    Args:
        name: Name in reports, unless the user gives another.
        root: Folder that relative image paths start from.
        images: Path of each caption's image.
        captions: Captions as written, in the order of the file.
        rejections: Entries that were left out; ``row`` is the line of a text file, or in JSON the place, from 0, in the
            list that ``value`` names.
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
    path: Path,
    *,
    split: str | None = None,
    image_root: Path | None = None,
    form: ManifestFormat,
    file_digests: FileDigests,
) -> CaptionSet:
    """Read a caption set; the path decides the format.

    - A folder with ``annotations/``: COCO's, with ``annotations/captions_SPLIT.json``; by default its only val split.
    - ``.json``: COCO's ``images`` and ``annotations``; or Karpathy's ``images`` with ``sentences``, by default the test
      split.
    - ``.token`` or ``.token.txt``: Flickr's ``image#number<TAB>caption``; for Flickr8k by default the images that
      Flickr_8k.testImages.txt beside it lists, for Flickr30k, which has no such lists, all.
    - A text file with the header ``image_name| comment_number| comment``: Flickr30k's results.csv.
    - Anything else: pairs in any form of `find_source`.

    Every caption is kept, even where an image has more than the usual five. Unless the set is a manifest, its images
    are looked for beside the file and one folder above: directly there, in a folder named like the file without
    ``captions_``, and in `IMAGE_FOLDERS`. A single missing image stays in the set and is rejected when it is opened.

    Args:
        path: File, folder, or pattern of the files of a manifest.
        split: Split to read; ``all`` reads a file whole.
        image_root: Folder to look for images in instead; relative paths of a manifest start there.
        form: How a manifest is written.
        file_digests: Remembered digests of files and of what lies in tars.

    Raises:
        ProtoRKDError: the file cannot be read, is malformed, or has no such split or no captions; none of its images
            can be found.
    """
    reader = _reader_of(path)
    if reader is None:
        choose_split(split, (ALL,), path, default=ALL)
        source = find_source(path)
        manifest = form.read(source, max_bad_fraction=1.0, file_digests=file_digests)
        images, captions = (tuple(manifest.table[column].to_pylist()) for column in ("image", "caption"))
        root = image_root or find_image_root(path, images).resolve()
        return CaptionSet(_name_of(path), root, images, captions, manifest.rejections)
    pairs = reader(path, split)
    if not pairs.images:
        first = f", the first {pairs.rejections[0].value!r}: {pairs.rejections[0].reason}" if pairs.rejections else ""
        raise ProtoRKDError(
            f"{pairs.path} must hold captions of images; got none in {pairs.name}, and {len(pairs.rejections)} "
            f"rejected entries{first}. Check the file."
        )
    root = find_images(pairs.path, dict.fromkeys(pairs.images), image_root)
    return CaptionSet(pairs.name, root, tuple(pairs.images), tuple(pairs.captions), tuple(pairs.rejections))


def _reader_of(path: Path) -> Callable[[Path, str | None], Pairs] | None:
    """Choose the reader by the path, and for a text file by its header; None for a manifest."""
    if path.is_dir() or is_pattern(path):
        return read_coco_folder if (path / "annotations").is_dir() else None
    if path.suffix.lower() == ".json":
        return read_json_file
    if path.name.lower().endswith(TOKEN_SUFFIXES):
        return read_token
    is_table = path.suffix.lower() in _TABLE_SUFFIXES and is_flickr30k_table(path)
    return read_flickr30k_table if is_table else None


def _name_of(path: Path) -> str:
    """Name a set that the user did not name: after its file without the suffix, or its folder."""
    return (
        pattern_root(path).resolve().name if is_pattern(path) else path.resolve().name if path.is_dir() else path.stem
    )
