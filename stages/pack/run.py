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
from pipeline.store.shards import Facts, ShardQueue
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
    shards = [range(start, min(start + params.shard_images, total)) for start in starts]

    def facts_of(number: int, *, resumed: int) -> Facts:
        reasons = read_index(draft.path, ["reason"], shard=number)["reason"].to_pylist()
        rejected = [(row, reason) for row, reason in zip(shards[number], reasons, strict=True) if reason is not None]
        size = (draft.path / shard_path(number)).stat().st_size
        return {"rejected": rejected, "bytes": size, "resumed": resumed}

    files = [(shard_path(number), index_path(number)) for number in range(len(shards))]
    queue = draft.shards(files, lambda number: facts_of(number, resumed=len(shards[number])))
    are_objects = has_objects(images.root, images.paths[:1])
    threads = NUM_REQUESTS if are_objects else max(1, num_workers(runtime.workers))
    make = RecordMaker(images, short_side=params.short_side, format_=params.format, quality=params.quality)
    with (
        ThreadPoolExecutor(threads) as pool,
        progress("packing images", total=total, unit="images", done=_sum(queue, "resumed")) as advance,
    ):
        for numbers in queue.rounds():
            for number in numbers:
                rows = shards[number]
                records = _in_order(pool, make, rows, ahead=_AHEAD * threads, advance=advance)
                write_shard(draft.path, number, images.paths[rows.start : rows.stop], records)
                queue.finish(number, facts_of(number, resumed=0))
                check_rejected(_rejections(queue, images), images, max_bad_fraction=runtime.max_bad_fraction)
    rejections = _rejections(queue, images)
    check_rejected(rejections, images, max_bad_fraction=runtime.max_bad_fraction)
    write_rejected(draft.path, rejections)
    return Result(
        counts={
            "images": total - len(rejections),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "resumed_images": _sum(queue, "resumed"),
            "bytes": _sum(queue, "bytes"),
        }
    )


def _sum(queue: ShardQueue, name: str) -> int:
    """Add up a fact of all shards that are whole."""
    return sum(facts[name] for facts in queue.facts.values())


def _rejections(queue: ShardQueue, images: ImageSet) -> list[Rejection]:
    """Return the images without a record in the shards that are whole, in their order."""
    rejected = [each for number in sorted(queue.facts) for each in queue.facts[number]["rejected"]]
    return [Rejection(row=row, reason=reason, value=images.paths[row]) for row, reason in rejected]


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
