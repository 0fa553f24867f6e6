"""Record the outcomes of rows in blocks, each written atomically after its images are on disk."""

import asyncio
import time
from pathlib import Path

from data_schemas.files import disk_errors, fsync_all
from data_schemas.images.gathered_folder import OK, RowOutcome, block_numbers, image_path, write_block

_BLOCK_ROWS = 2048
_BLOCK_S = 2.0


class Journal:
    """A journal of outcomes, which writes blocks in the background.

    Args:
        root: Folder of the images.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._next = max(block_numbers(root), default=0) + 1
        self._outcomes: list[RowOutcome] = []
        self._since = time.monotonic()
        self._writing: asyncio.Task[None] | None = None

    def add(self, outcome: RowOutcome) -> None:
        """Add the outcome of a row."""
        self._outcomes.append(outcome)

    def write_if_due(self) -> None:
        """Start to write a block if it is due and the previous one is written.

        Raises:
            ProtoRKDError: the previous block could not be written.
        """
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()
        due = len(self._outcomes) >= _BLOCK_ROWS or time.monotonic() - self._since >= _BLOCK_S
        if self._writing is None and self._outcomes and due:
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write the remaining outcomes.

        Raises:
            ProtoRKDError: they cannot be written.
        """
        if self._writing is not None:
            await self._writing
        if self._outcomes:
            await self._write()

    async def _write(self) -> None:
        outcomes, self._outcomes, self._since = self._outcomes, [], time.monotonic()
        number, self._next = self._next, self._next + 1
        await asyncio.to_thread(self._write_block, number, outcomes)

    def _write_block(self, number: int, outcomes: list[RowOutcome]) -> None:
        paths = [self._root / image_path(outcome.row) for outcome in outcomes if outcome.status == OK]
        with disk_errors(self._root, flag="--output"):
            fsync_all([*paths, *{path.parent for path in paths}])
        write_block(self._root, number, outcomes)
