"""Run gather-cc: lock the folder, request the rows that are not done, and write the results."""

import asyncio
import contextlib
import json
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, StopRequestedError
from data_schemas.files import disk_errors, read_json, write_atomic_by
from data_schemas.images.gathered_folder import FAILED, LOCK_PATH, PARTIAL_FOLDER, REQUEST_PATH, read_outcomes, rows_of
from pipeline.log import log
from pipeline.options.declaration import as_json
from pipeline.progress import progress
from stages.components.loading.num_workers import num_workers
from stages.gather_cc.client import Client
from stages.gather_cc.crawl_loop import Gatherer
from stages.gather_cc.decoders import Decoders
from stages.gather_cc.image_writer import ImageWriter
from stages.gather_cc.options import GatherParams, GatherRuntime
from stages.gather_cc.outcome_journal import Journal
from stages.gather_cc.results import count_reasons, is_complete, write_results
from stages.gather_cc.url_table import Plan, Row, Table, open_table


@dataclass(frozen=True)
class Gathered:
    """The result of a call.

    Args:
        status: ``created``, or ``unchanged`` if everything was there.
        asked: Number of rows that this call requested.
        seconds: Duration of the requests.
        statuses: Number of the folder's rows by status.
        reasons: Number of the folder's rows by status and reason.
    """

    status: str
    asked: int
    seconds: float
    statuses: dict[str, int]
    reasons: dict[tuple[str, str], int]


def gather(path: Path, root: Path, params: GatherParams, runtime: GatherRuntime) -> Gathered:
    """Gather the images of a table into a folder, except those that earlier calls have done.

    Args:
        path: File of the table.
        root: Folder of the images; created if necessary.
        params: Choice and form of the images.
        runtime: Limits and timeouts.

    Raises:
        ProtoRKDError: the table cannot be read, the folder holds something else or is in use, the disk is full, the
            network is gone, or a signal asked to stop.
    """
    table = open_table(path, params)
    with _claimed(root):
        _check_request(root, table, params)
        plan = Plan.of(table)
        rows = plan.rows[: runtime.limit or len(plan.rows)]
        todo = _not_done(root, plan, limit=len(rows), retry_failed=runtime.retry_failed)
        start = time.monotonic()
        if todo.any():
            asyncio.run(_ask(_chosen(table, todo), int(todo.sum()), root=root, params=params, runtime=runtime))
        seconds = time.monotonic() - start
        complete = is_complete(root, rows)
        if not complete:
            write_results(root, table, plan, rows)
        return Gathered("unchanged" if complete else "created", int(todo.sum()), seconds, *count_reasons(root))


def _not_done(root: Path, plan: Plan, *, limit: int, retry_failed: bool) -> NDArray[np.bool_]:
    """Mark the rows to request: those that are not done, and only the first of those that share a URL."""
    outcomes = read_outcomes(root, ["row", "status"])
    done = np.isin(plan.rows, rows_of(outcomes))
    if retry_failed:
        done &= ~np.isin(plan.rows, rows_of(outcomes, FAILED))
    done[limit:] = True
    todo: NDArray[np.bool_] = ~done & (plan.first == plan.rows)
    return todo


def _chosen(table: Table, todo: NDArray[np.bool_]) -> Iterator[Row]:
    start = 0
    for block in table.blocks():
        yield from block.rows(np.flatnonzero(todo[start : start + len(block)]))
        start += len(block)


async def _ask(rows: Iterator[Row], num_rows: int, *, root: Path, params: GatherParams, runtime: GatherRuntime) -> None:
    _allow_many_files()
    writer = ImageWriter(
        folder=root,
        partial=root / PARTIAL_FOLDER,
        resize=params.resize,
        image_size=params.image_size,
        min_side=params.min_side,
        max_aspect_ratio=params.max_aspect_ratio,
        quality=params.quality,
    )
    workers = num_workers(runtime.workers)
    log.info(
        "gather-cc: asking for %d rows, %d at a time, decoding by %d processes", num_rows, runtime.concurrency, workers
    )
    with Decoders(writer, workers=workers) as decoders, progress("gathering", total=num_rows, unit="rows") as advance:
        async with Client(runtime) as client:
            gatherer = Gatherer(
                rows,
                root=root,
                client=client,
                decoders=decoders,
                journal=Journal(root),
                runtime=runtime,
                advance=advance,
            )
            await gatherer.run()
    if gatherer.stopped:
        raise StopRequestedError(
            "gather-cc was asked to stop and did; what is whole is kept. Run the same command again to go on."
        )


def _allow_many_files() -> None:
    """Raise this process's limit of open files as far as allowed, because each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # if the hard limit exceeds the system's
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _claimed(root: Path) -> Iterator[None]:
    """Lock the folder, and remove the incomplete files of a killed call."""
    with disk_errors(root, flag="--output"):
        (root / LOCK_PATH).parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / LOCK_PATH)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ProtoRKDError(
                f"--output must be a folder that no other process gathers into; {root} is in use. Wait for it to end."
            ) from error
    try:
        with disk_errors(root, flag="--output"):
            shutil.rmtree(root / PARTIAL_FOLDER, ignore_errors=True)
            (root / PARTIAL_FOLDER).mkdir()
        yield
    finally:
        lock.release()


def _check_request(root: Path, table: Table, params: GatherParams) -> None:
    """Require the same table and parameters that the folder was begun with.

    Raises:
        ProtoRKDError: it was gathered from another table, or other images were kept.
    """
    asked = {"table": table.digest(), **as_json(params)}
    place = root / REQUEST_PATH
    if not place.exists():
        text = json.dumps(asked, indent=2, sort_keys=True) + "\n"
        write_atomic_by(place, lambda partial: partial.write_text(text), flag="--output")
        return
    before = read_json(place)
    for name, value in asked.items():
        if before.get(name) != value:
            what = "another table" if name == "table" else f"--{name.replace('_', '-')} {before.get(name)}"
            raise ProtoRKDError(
                f"--output must be a folder that was gathered from the same table in the same way; {root} was from "
                f"{what}. Pass another folder, or what it was begun with."
            )
