"""The interface of a reader of pairs: one file in, blocks of records out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from data_schemas.pair_sources.blocks import Block
from data_schemas.pair_sources.columns import Columns
from data_schemas.records.tar import list_members

ListMembers = Callable[[Path], pa.Table]


@dataclass(frozen=True)
class Shard:
    """One file of a source, as a reader receives it.

    Args:
        path: Path of the file.
        name: Path below the source's root, which is how locators of its records begin.
        list_members: Returns the members of a tar, perhaps from memory.
    """

    path: Path
    name: str
    list_members: ListMembers = field(default=list_members, compare=False)


class ReadShard(Protocol):
    """A function that reads one file of a kind."""

    def __call__(self, shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
        """Yield the records of a file in their order, in blocks.

        Args:
            shard: The file.
            columns: Columns of images, captions and labels.
            notes: Receives choices that the reader makes, in a few words, for the log.

        Raises:
            ProtoRKDError: it is absent or damaged, or a column is missing.
        """
