"""A reader of one kind of pairs: what files it takes, and how it goes through one of them."""

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
    """One file of a source, as a reader is given it.

    Args:
        path: of the file.
        name: what locators of its records begin with: its path below the source's root.
        list_members: gives the members of a tar, perhaps from memory.
    """

    path: Path
    name: str
    list_members: ListMembers = field(default=list_members, compare=False)


class ReadShard(Protocol):
    """How a kind of file is read."""

    def __call__(self, shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
        """Yield the records of a file in their order, in blocks.

        Args:
            shard: the file.
            columns: what holds images, captions and labels.
            notes: takes what the reader chose by itself, in a few words.

        Raises:
            ProtoRKDError: it is absent or damaged, or a column is missing.
        """
