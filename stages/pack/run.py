"""Pack images into shards, in an order that does not depend on the number of threads."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from data_schemas.images.packed_images import (
    CONFIG_NAME,
    index_path,
    read_index,
    shard_path,
    write_config,
    write_shard,
)
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from pipeline.progress import progress
from pipeline.remote.object_store import NUM_REQUESTS
from pipeline.stage import Result
from pipeline.store.draft import Draft
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import has_objects
from stages.components.images.rejections import check_rejected
from stages.components.loading.num_workers import num_workers
from stages.pack.records import RecordMaker

if TYPE_CHECKING:
    from stages.pack.options import PackParams, PackRuntime

_AHEAD = 4  # images that wait for each thread

R = TypeVar("R")


def pack_images(params: "PackParams", runtime: "PackRuntime", *, images: ImageSet, draft: Draft) -> Result:
    """Pack images, each named once, into a draft; shards that are already complete are kept.

    Raises:
        ProtoRKDError: too many images cannot be read, or the disk is full.
    """
    write_config(draft.path, format_=params.format)
    draft.adopt(CONFIG_NAME)
    total = len(images.paths)
    starts = range(0, total, params.shard_images)
    shards = {number: range(start, min(start + params.shard_images, total)) for number, start in enumerate(starts)}
    kept = {number for number in shards if draft.is_whole(index_path(number)) and draft.is_whole(shard_path(number))}
    rejections: list[Rejection] = []
    are_objects = has_objects(images.root, images.paths[:1])
    threads = NUM_REQUESTS if are_objects else max(1, num_workers(runtime.workers))
    make = RecordMaker(images, short_side=params.short_side, format_=params.format, quality=params.quality)
    resumed = sum(len(shards[number]) for number in kept)
    with (
        ThreadPoolExecutor(threads) as pool,
        progress("packing images", total=total, unit="images", done=resumed) as advance,
    ):
        for number, rows in shards.items():
            if number not in kept:
                records = _in_order(pool, make, rows, ahead=_AHEAD * threads, advance=advance)
                write_shard(draft.path, number, images.paths[rows.start : rows.stop], records)
                draft.adopt(shard_path(number))
                draft.adopt(index_path(number))
            reasons = read_index(draft.path, ["reason"], shard=number)["reason"].to_pylist()
            rejected = [(row, reason) for row, reason in zip(rows, reasons, strict=True) if reason is not None]
            rejections += [Rejection(row=row, reason=reason, value=images.paths[row]) for row, reason in rejected]
            check_rejected(rejections, images, max_bad_fraction=runtime.max_bad_fraction)
    write_rejected(draft.path, rejections)
    return Result(
        counts={
            "images": total - len(rejections),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "resumed_images": resumed,
            "bytes": sum((draft.path / shard_path(number)).stat().st_size for number in shards),
        }
    )


def _in_order(
    pool: ThreadPoolExecutor,
    make: Callable[[int], R],
    rows: Sequence[int],
    *,
    ahead: int,
    advance: Callable[[int], None],
) -> Iterator[R]:
    """Yield results in order while later ones are made; at most ``ahead`` wait, which bounds memory."""
    waiting: deque[Future[R]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(make, row))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
                advance(1)
        while waiting:
            yield waiting.popleft().result()
            advance(1)
    finally:
        for future in waiting:
            future.cancel()
