"""Read images from containers - tar, parquet, arrow - in place, together with single files."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.source import ListMembers
from data_schemas.records.arrow import ArrowRecords
from data_schemas.records.parquet import ParquetRecords
from data_schemas.records.record import ABSENT, BROKEN, Records, UnreadableRecord
from data_schemas.records.tar import TarRecords, list_members
from pipeline.log import log
from pipeline.store.file_digests import FileDigests, facts_of
from stages.components.images.image_set import ImageSet, changed

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage

_LOCATOR = r"^(?P<container>.+?\.(?i:tar|parquet|pq|arrow))/(?P<record>.+)$"
_ROW = r"^(?P<row>[0-9]+)/(?P<column>.+)$"
_FILE = -1  # in place of a container, for an image that is a file


@dataclass(frozen=True, eq=False)
class Located:
    """Locations of images in containers, by number; small when pickled.

    Args:
        containers: Readers of the containers, one for each column of a table.
        container: Number of each image's container; -1 for a file.
        first, second: Place of each image in its container, as the container's reader takes it.

    Shapes:
        container: (images,), int32; or a tensor in shared memory.
        first, second: (images,), int64; or tensors in shared memory.
    """

    containers: tuple[Records, ...]
    container: Any
    first: Any
    second: Any

    def select(self, numbers: NDArray[np.int64]) -> "Located":
        """Return the locations of the chosen images."""
        return Located(self.containers, self.container[numbers], self.first[numbers], self.second[numbers])

    def shared(self) -> "Located":
        """Return the same locations in shared memory."""
        import torch

        from stages.components.compute.shared_memory import share

        arrays = (share(torch.as_tensor(array)) for array in (self.container, self.first, self.second))
        return Located(self.containers, *arrays)


@dataclass(frozen=True, eq=False)
class RecordImageSet(ImageSet):
    """A set of images of which some are records of containers, named by a locator such as ``0.tar/17.jpg``.

    Containers are listed when the first image is opened, or when the set is handed to another process.

    Args:
        root: Folder that paths and locators start from.
        paths: Paths of files, and locators of records.
        missing: Reasons of the images that are known to be missing, by number.
        list_members: Lists the members of a tar, perhaps from a cache.
        known: Locations of the images; None finds them when they are needed.
    """

    list_members: ListMembers = field(default=list_members, kw_only=True)
    known: Located | None = field(default=None, kw_only=True)

    @functools.cached_property
    def located(self) -> Located:
        """Locations of the images.

        Raises:
            ProtoRKDError: a container is damaged.
        """
        return self.known or _locate(self.root, self.paths, self.list_members)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "known": self.located, "located": self.located, "list_members": list_members}

    def open(self, number: int) -> "LazyImage":
        """Open an image, as `ImageSet.open` does.

        Raises:
            ImageRejected: its record is missing or damaged.
            ProtoRKDError: a container is damaged, or it or the file is not what was hashed.
        """
        if int(self.located.container[number]) == _FILE:
            return super().open(number)
        from stages.components.images.decoding import ImageRejected
        from stages.components.images.lazy_image import lazy_image_of

        try:
            return lazy_image_of(self._read(number))
        except UnreadableRecord as error:
            raise ImageRejected(error.reason) from error

    def select(self, numbers: Sequence[int]) -> "RecordImageSet":
        """Return the set of the chosen images, numbered anew in the given order."""
        chosen = [self.paths[number] for number in numbers]
        known = self.located.select(np.asarray(numbers, dtype=np.int64))
        missing, facts = self._missing_of(numbers), self._facts_of(numbers)
        return RecordImageSet(self.root, chosen, missing, facts=facts, list_members=self.list_members, known=known)

    def stored_bytes(self, number: int) -> int:
        """Return the size of an image as it is stored, in bytes.

        Raises:
            OSError: it is missing.
        """
        if int(self.located.container[number]) == _FILE:
            return super().stored_bytes(number)
        try:
            return len(self._read(number))
        except UnreadableRecord as error:
            raise OSError(error.reason) from error

    def shared(self) -> "RecordImageSet":
        """Return the same set with its large parts in shared memory."""
        if any(isinstance(each, ParquetRecords) for each in self.located.containers):
            log.info("images are read out of parquet, by groups of rows: they come quicker once they are packed")
        from stages.components.compute.shared_memory import share_names

        known, facts = self.located.shared(), self._shared_facts()
        return dataclasses.replace(self, paths=share_names(self.paths), known=known, facts=facts)

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """Hash the bytes of images by SHA-256, in a container or not; None for missing ones.

        Raises:
            ProtoRKDError: an image, or its container, is not what it was when it was hashed.
        """
        container = np.asarray(self.located.container)
        files = [number for number in numbers if container[number] == _FILE]
        of_files = dict(zip(files, super().digests(files, file_digests), strict=True))
        return [of_files[number] if number in of_files else self._digest(number) for number in numbers]

    def _digest(self, number: int) -> str | None:
        try:
            return hashlib.sha256(self._read(number)).hexdigest()
        except UnreadableRecord:
            return None

    def _read(self, number: int) -> bytes:
        located = self.located
        first = int(located.first[number])
        if first == ABSENT:
            raise UnreadableRecord("missing in its container")
        container = located.containers[int(located.container[number])]
        try:
            return container.read(first, int(located.second[number]))
        finally:  # after the read, so that a change meanwhile is noticed as well
            if self.facts is not None and _facts_at(container.path) != int(self.facts[number]):
                raise changed(container.path)


def _facts_at(path: Path) -> int:
    """Return the facts of a file, or 0 where there is none."""
    try:
        return facts_of(path.stat())
    except OSError:
        return 0


def files_behind(root: Path, paths: Sequence[str]) -> list[str]:
    """Return the container of each image, or its own path for a file."""
    texts = pa.array(paths, pa.large_string())
    parts = _split(texts, _LOCATOR)
    container = pc.struct_field(parts, "container")
    is_record = pc.is_in(container, value_set=pa.array(_containers(root, parts), pa.large_string()))
    files: list[str] = pc.if_else(is_record, container, texts).to_pylist()
    return files


def _containers(root: Path, parts: pa.StructArray) -> list[str]:
    """Return the containers that locators name and that are files; a folder may be called ``0.tar``, too."""
    names = pc.struct_field(parts, "container").unique().drop_null().to_pylist()
    return [name for name in names if (root / name).is_file()]


def _locate(root: Path, paths: Sequence[str], list_members: ListMembers) -> Located:
    parts = _split(pa.array(paths, pa.large_string()), _LOCATOR)
    names = _containers(root, parts)
    owners = pc.index_in(pc.struct_field(parts, "container"), value_set=pa.array(names, pa.large_string()))
    owner = owners.fill_null(_FILE).to_numpy(zero_copy_only=False)
    records = pc.struct_field(parts, "record")
    containers: list[Records] = []
    container = np.full(len(paths), _FILE, np.int32)
    places = np.full((len(paths), 2), ABSENT, np.int64)
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(len(names) + 1))
    for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True):
        numbers = order[start:stop]
        for reader, chosen, wanted in _readers(root / name, records.take(pa.array(numbers)), list_members):
            container[numbers[chosen]] = len(containers)
            places[numbers[chosen]] = _find(reader, wanted)
            containers.append(reader)
    return Located(tuple(containers), container, places[:, 0].copy(), places[:, 1].copy())


def _find(reader: Records, names: pa.Array) -> NDArray[np.int64]:
    try:
        return reader.find(names)
    except BROKEN as error:
        raise ProtoRKDError(f"{reader.path} must be a whole container; {error}. Fetch or save it again.") from error


def _readers(
    path: Path, records: pa.Array, list_members: ListMembers
) -> list[tuple[Records, NDArray[np.int64], pa.Array]]:
    """Make the readers of some records of a container, each with the records' places among them and their names."""
    if path.suffix.lower() == ".tar":
        return [(TarRecords(path, list_members), np.arange(len(records), dtype=np.int64), records)]
    is_arrow = path.suffix.lower() == ".arrow"
    parts = _split(records, _ROW)
    columns, rows = pc.struct_field(parts, "column").fill_null(""), pc.struct_field(parts, "row").fill_null("")
    readers: list[tuple[Records, NDArray[np.int64], pa.Array]] = []
    for column in columns.unique().to_pylist():
        chosen = np.flatnonzero(pc.equal(columns, column).to_numpy(zero_copy_only=False))
        reader: Records = ArrowRecords(path, column) if is_arrow else ParquetRecords(path, column)
        readers.append((reader, chosen, rows.take(pa.array(chosen))))
    return readers


def _split(texts: pa.LargeStringArray, pattern: str) -> pa.StructArray:
    return pc.extract_regex(texts, pattern)
