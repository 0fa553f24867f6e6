"""The forms of image-caption data, and how to tell which one a path has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import AUTO, Manifest
from data_schemas.pair_sources.arrow import DICT_NAME, INFO_NAME, STATE_NAME, read_arrow, saved_files, saved_splits
from data_schemas.pair_sources.blocks import join_blocks
from data_schemas.pair_sources.coco import find_images, read_coco_captions
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.img2dataset import Img2datasetReader, image_encoding, is_list
from data_schemas.pair_sources.json_lines import read_json_lines
from data_schemas.pair_sources.parquet import read_parquet
from data_schemas.pair_sources.patterns import expand, is_pattern, pattern_root
from data_schemas.pair_sources.source import ListMembers, ReadShard, Shard
from data_schemas.pair_sources.text.manifest_table import read_manifest
from data_schemas.pair_sources.text.text_file import COMPRESSIONS
from data_schemas.pair_sources.webdataset import read_webdataset
from data_schemas.records.tar import list_members

TABLE, COCO, IMG2DATASET = "table", "coco", "img2dataset"


@dataclass(frozen=True)
class Kind:
    """A form of image-caption data.

    Args:
        suffixes: Suffixes of its files, in lower case.
        read: Function that reads one file; None for tables, which `read_manifest` reads.
        packed: Whether its files may be compressed.
        several: Whether it may have several files.
    """

    suffixes: tuple[str, ...]
    read: ReadShard | None
    packed: bool = False
    several: bool = True


KINDS = {
    TABLE: Kind((".tsv", ".csv", ".txt", ".tab"), None, packed=True, several=False),
    "json-lines": Kind((".jsonl", ".ndjson"), read_json_lines, packed=True),
    COCO: Kind((".json",), read_coco_captions, packed=True, several=False),
    "parquet": Kind((".parquet", ".pq"), read_parquet),
    "arrow": Kind((".arrow",), read_arrow),
    "webdataset": Kind((".tar",), read_webdataset),
}
"""Kinds by name; img2dataset's folders are recognised by their lists."""

_IN_FOLDERS = ("webdataset", "parquet", "arrow", "json-lines")  # in order of precedence
_TAKEN = (
    "a table (.tsv, .csv, .txt), JSON lines (.jsonl, .ndjson) or COCO's captions (annotations/captions_*.json), each "
    "also as .gz, .zst or .bz2; parquet (.parquet), arrow or a webdataset tar (.tar), or a folder or a pattern of such "
    "shards; a folder of img2dataset; or a dataset of the datasets library, saved to disk"
)


@dataclass(frozen=True)
class PairSource:
    """Pairs of images and captions in one of the forms.

    Args:
        kind: Name of the form: a key of `KINDS`, or img2dataset.
        path: Path as the user named it.
        root: Folder that image paths and locators start from, except for COCO's captions.
        files: Files to read, in order.
        read_shard: Function that reads one of them; None for tables, which `read_manifest` reads.
        encoding: Image encoding of an img2dataset source; otherwise "".
    """

    kind: str
    path: Path
    root: Path
    files: tuple[Path, ...]
    read_shard: ReadShard | None
    encoding: str = ""

    def read(
        self,
        columns: Columns,
        *,
        separator: str = AUTO,
        quoting: str = "auto",
        limit: int = 0,
        max_bad_fraction: float = 0.01,
        list_members: ListMembers = list_members,
    ) -> Manifest:
        """Read the pairs.

        Args:
            columns: Columns of images, captions and labels.
            separator: As for `read_manifest`; only for tables.
            quoting: As for `read_manifest`; only for tables.
            limit: Take the first so many pairs; 0 takes all.
            max_bad_fraction: Rejected records beyond this share are an error.
            list_members: Returns the members of a tar, perhaps from memory.

        Raises:
            ProtoRKDError: a file is absent or damaged, a column is missing, or too many records are rejected.
        """
        if self.read_shard is None:
            return read_manifest(
                self.files[0],
                image_key=columns.image,
                caption_key=columns.caption,
                label_column=columns.label,
                separator=separator,
                quoting=quoting,
                limit=limit,
                max_bad_fraction=max_bad_fraction,
            )
        read_shard = self.read_shard
        notes: set[str] = set()
        shards = (Shard(file, self.name_of(file), list_members) for file in self.files)
        return join_blocks(
            ((shard.path, read_shard(shard, columns, notes)) for shard in shards),
            self.path,
            labelled=bool(columns.label),
            limit=limit,
            max_bad_fraction=max_bad_fraction,
            notes=notes,
        )

    def name_of(self, file: Path) -> str:
        """Return the path of a file below the root, which is how locators of its records begin."""
        return file.relative_to(self.root).as_posix()


def find_source(path: Path) -> PairSource:
    """Tell which form a path has: by the suffix of a file, by what lies in a folder.

    Raises:
        ProtoRKDError: nothing is there, or it is none of the forms, which the message lists.
    """
    if is_pattern(path):
        return _of_files(path, pattern_root(path), expand(path))
    if path.is_dir():
        return _of_folder(path)
    return _of_files(path, path.parent, [path])


def find_image_root(path: Path, images: Sequence[str]) -> Path:
    """Return the folder that a source's paths and locators start from, even if the source is gone.

    Args:
        path: Path of the source.
        images: Paths that were read from it; for COCO's captions the folder is found by them.

    Raises:
        ProtoRKDError: the images of COCO's captions are not found.
    """
    if path.is_dir():
        return path
    if is_pattern(path):
        return pattern_root(path)
    if _kind_of(path) == COCO and path.is_file():
        return find_images(path, dict.fromkeys(images))
    return path.parent


def _of_files(path: Path, root: Path, files: list[Path]) -> PairSource:
    if all(is_list(file) for file in files):
        return _of_lists(path, root, files)
    kinds = {_kind_of(file) for file in files}
    kind = next(iter(kinds))
    if len(kinds) > 1 or kind is None:
        odd = next(file for file in files if kind is None or _kind_of(file) != kind)
        raise _unknown(path, f"{odd.name}")
    if len(files) > 1 and not KINDS[kind].several:
        raise ProtoRKDError(f"{path} must name one file of this form; got {len(files)}. Join them, or use JSON lines.")
    return PairSource(kind, path, root, tuple(files), KINDS[kind].read)


def _of_folder(path: Path) -> PairSource:
    if (path / STATE_NAME).is_file() and (path / INFO_NAME).is_file():
        return PairSource("arrow", path, path, tuple(saved_files(path)), read_arrow)
    if (path / DICT_NAME).is_file():
        parts = ", ".join(str(path / part) for part in saved_splits(path)) or "none"
        raise ProtoRKDError(f"{path} must be one dataset; got one of several parts. Name one of them: {parts}.")
    lists = [file for file in sorted(path.glob("*.parquet")) if is_list(file)]
    if lists:
        return _of_lists(path, path, lists)
    for kind in _IN_FOLDERS:
        files = [file for suffix in KINDS[kind].suffixes for file in path.glob(f"*{suffix}") if file.is_file()]
        if files:
            return PairSource(kind, path, path, tuple(sorted(files)), KINDS[kind].read)
    captions = sorted((path / "annotations").glob("captions_*.json"))
    if captions:
        raise ProtoRKDError(f"{path} must be a file where it is COCO's; name one of {', '.join(map(str, captions))}.")
    raise _unknown(path, "a folder of none of them")


def _of_lists(path: Path, root: Path, lists: list[Path]) -> PairSource:
    encoding = image_encoding(lists)
    return PairSource(IMG2DATASET, path, root, tuple(lists), Img2datasetReader(encoding), encoding)


def _kind_of(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    last = suffixes[-2 if packed else -1] if len(suffixes) > packed else ""
    return next(
        (name for name, kind in KINDS.items() if last in kind.suffixes and (kind.packed or not packed)),
        None,
    )


def _unknown(path: Path, got: str) -> ProtoRKDError:
    return ProtoRKDError(f"{path} must be {_TAKEN}; got {got}. Convert it, or rename it to what it is.")
