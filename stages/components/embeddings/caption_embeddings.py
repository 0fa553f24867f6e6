"""Write the embeddings of distinct captions: resumed shard by shard, reused row by row from earlier artifacts."""

import contextlib
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray, Shard
from data_schemas.pair_index import CAPTIONS_NAME, write_captions
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context, Input
from pipeline.store.draft import Draft
from pipeline.store.shards import Facts, ShardQueue
from stages.components.compute.background import prefetch, write_behind
from stages.components.embeddings.reused_captions import find_known_captions
from stages.components.embeddings.reused_rows import ReusedRows
from stages.components.embeddings.storage_dtype import store_as
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource

if TYPE_CHECKING:
    import torch

    from stages.components.teacher.batching import Batch
    from stages.components.teacher.teacher import Teacher


@dataclass(frozen=True)
class WrittenCaptions:
    """How the embeddings of the distinct captions were obtained.

    Args:
        captions: Number of distinct captions.
        encoded_captions: Number that the teacher embedded in this run.
        reused_captions: Number taken from earlier artifacts of the same teacher and recipe.
        resumed_captions: Number in shards that an interrupted run had completed.
        zero_captions: Number with the zero vector (the teacher knows no word of them); training leaves them out.
        cut_captions: Number of those embedded in this run that have more tokens than the teacher takes.
        metrics: Cosine to the embeddings in fp32, if the teacher computed in fewer bits, and the share of the
            captions embedded in this run that were cut, if some were.
    """

    captions: int
    encoded_captions: int
    reused_captions: int
    resumed_captions: int
    zero_captions: int
    cut_captions: int
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """All counts, by name."""
        return {name: value for name, value in vars(self).items() if name != "metrics"}


def write_caption_embeddings(
    captions: pa.Array,
    draft: Draft,
    *,
    teacher: Input[TeacherSource],
    recipe: EncodingOptions,
    shard_rows: int,
    choose_devices: "Callable[[], Sequence[torch.device]]",
    batch_tokens: int,
    context: Context,
) -> WrittenCaptions:
    """Write the embedding of each distinct caption, row by row of ``captions``.

    While the teacher embeds a shard, one thread tokenizes the next shard and another writes the previous one.

    Reads:  earlier artifacts of the same teacher and recipe, unless the run is forced.
    Writes: EmbeddingArray of shape (captions, teacher_dim), and the captions.

    Args:
        captions: Distinct captions.
        draft: Draft of the artifact that is written.
        teacher: Identified teacher.
        recipe: How the teacher embeds.
        shard_rows: Rows in one shard.
        choose_devices: Returns the teacher's devices, which share the work; called only if the teacher has to run.
        batch_tokens: Tokens in one batch of the teacher, padding included; 0 takes what suits the device.
        context: Holds the store with earlier artifacts.

    Raises:
        ProtoRKDError: an embedding is not finite, or too large or too small for the recipe's dtype.
    """
    adopt_captions(captions, draft)
    known = None
    if not context.force:
        known = find_known_captions(captions, draft, context=context, teacher_digest=teacher.digest, recipe=recipe)
    loaded = None
    if known is None or not known.is_known.all():
        loaded = load_teacher(teacher, recipe, captions, devices=choose_devices())
        context.check_inputs()
    dim = known.dim if known else loaded.dim if loaded else 0
    embeddings = EmbeddingArray.create(
        draft.path, rows=len(captions), dim=dim, dtype=recipe.embedding_dtype, shard_rows=shard_rows
    )
    draft.adopt(f"{ARRAY_NAME}/zarr.json")
    shards = list(embeddings.shards())

    def look(number: int) -> Facts | None:
        values = embeddings.read_sound(shards[number])
        return None if values is None else {"zero": _count_zeros(values), "resumed": len(values)}

    queue = draft.shards([(shard.path,) for shard in shards], look)
    writer = _Writer(embeddings, queue, nearness=loaded.nearness if loaded else {})

    def prepare(number: int) -> _Prepared:
        shard = shards[number]
        rows = np.arange(shard.start, shard.stop)
        if known is not None:
            rows = rows[~known.is_known[rows]]
        chosen = captions.take(pa.array(rows))
        batches = loaded.tokenize(chosen, batch_tokens=batch_tokens) if loaded and rows.size else []
        return _Prepared(number, shard, rows, chosen, batches)

    stand = sum(facts["resumed"] for facts in queue.facts.values())
    with (
        progress("encoding captions", total=len(captions), unit="captions", done=stand) as advance,
        write_behind(writer.write) as write,
        loaded or contextlib.nullcontext(),
    ):
        for numbers in queue.rounds():
            for prepared in prefetch(prepare, numbers):
                fresh = loaded.start(prepared.batches, advance=advance) if loaded and prepared.batches else None
                write(prepared, fresh, known=known)
                advance(prepared.shard.stop - prepared.shard.start - len(prepared.rows))
            write.settle()
    return _summed_up(queue.facts.values(), len(captions), loaded)


def _summed_up(facts: Collection[Facts], num_captions: int, loaded: "Teacher | None") -> WrittenCaptions:
    """Sum up what was done in all shards, by this process and by others."""
    encoded, resumed, zero, num_cut = (
        sum(each.get(name, 0) for each in facts) for name in ("encoded", "resumed", "zero", "cut")
    )
    nearness = loaded.nearness if loaded else next((each["nearness"] for each in facts if "nearness" in each), {})
    return WrittenCaptions(
        captions=num_captions,
        encoded_captions=encoded,
        reused_captions=num_captions - resumed - encoded,
        resumed_captions=resumed,
        zero_captions=zero,
        cut_captions=num_cut,
        metrics=nearness | _tell_cut(num_cut, encoded, loaded),
    )


def adopt_captions(captions: pa.Array, draft: Draft) -> None:
    """Write the captions; shards of a killed run that read other ones under this fingerprint are taken away."""
    write_captions(draft.path, captions)
    if draft.was_adopted(CAPTIONS_NAME) and not draft.is_whole(CAPTIONS_NAME):
        shutil.rmtree(draft.path / ARRAY_NAME, ignore_errors=True)
    draft.adopt(CAPTIONS_NAME)


def _tell_cut(num_cut: int, encoded: int, loaded: "Teacher | None") -> dict[str, float]:
    """Log how many captions are longer than the teacher takes, and return their share of those embedded now."""
    if not num_cut or loaded is None:
        return {}
    log.warning(
        "%d of %d captions (%.1f %%) have more tokens than the %s that the teacher takes, and are cut there",
        num_cut,
        encoded,
        100 * num_cut / encoded,
        loaded.limit,
    )
    return {"cut_caption_share": num_cut / encoded}


@dataclass(frozen=True)
class _Prepared:
    """The captions of a shard that the teacher has to embed.

    Args:
        number: Number of the shard that they belong to.
        shard: That shard.
        captions: Captions without a known embedding, in row order.
        batches: The same captions, tokenized.

    Shapes:
        rows: (captions,), int64: rows of the captions in the whole array.
    """

    number: int
    shard: Shard
    rows: NDArray[np.int64]
    captions: pa.Array
    batches: "list[Batch]"

    def name(self, number: int) -> str:
        """Return a caption as messages quote it."""
        return repr(self.captions[number].as_py()[:200])


class _Writer:
    """Writes shards, one at a time, with the facts of each."""

    def __init__(self, embeddings: EmbeddingArray, queue: ShardQueue, *, nearness: dict[str, float]) -> None:
        self._embeddings, self._queue, self._nearness = embeddings, queue, nearness

    def write(
        self,
        prepared: _Prepared,
        fresh: Callable[[], NDArray[np.float32]] | None,
        *,
        known: ReusedRows | None,
    ) -> None:
        """Wait for the rows that the teacher embeds; write them and the known ones to disk, and note the shard."""
        shard = prepared.shard
        values = np.empty((shard.stop - shard.start, self._embeddings.dim), dtype=self._embeddings.dtype)
        if known is not None:
            is_known = known.is_known[shard.start : shard.stop]
            values[is_known] = known.values[shard.start : shard.stop][is_known]
        if fresh is not None:
            values[prepared.rows - shard.start] = store_as(
                fresh(), self._embeddings.dtype, model="teacher", noun="caption", name=prepared.name
            )
        self._embeddings.write(shard, values)
        num_cut = sum(batch.num_cut for batch in prepared.batches)
        facts = {"zero": _count_zeros(values), "encoded": len(prepared.rows), "cut": num_cut}
        self._queue.finish(prepared.number, facts | ({"nearness": self._nearness} if self._nearness else {}))


def _count_zeros(values: NDArray[Any]) -> int:
    return int(np.count_nonzero(~values.any(axis=1)))


def load_teacher(
    teacher: Input[TeacherSource], recipe: EncodingOptions, captions: pa.Array, *, devices: "Sequence[torch.device]"
) -> "Teacher":
    """Load the teacher; its libraries, which take seconds to import, are imported only here.

    Args:
        teacher: Identified teacher.
        recipe: How the teacher embeds.
        captions: Captions to embed; a teacher in fewer bits than fp32 is compared with fp32 on a sample of them.
        devices: Devices of the teacher, which share the work.

    Raises:
        ProtoRKDError: the model cannot be loaded, or does not allow what is asked for.
    """
    from stages.components.teacher.precision import draw_sample
    from stages.components.teacher.teacher import Teacher

    return Teacher(
        teacher.value,
        max_tokens=recipe.max_tokens,
        prompt=recipe.prompt,
        truncate_dim=recipe.truncate_dim,
        precision=recipe.teacher_precision,
        sample=draw_sample(captions),
        devices=[str(device) for device in devices],
    )
