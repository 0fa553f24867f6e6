"""Embeddings of distinct captions as an artifact's files: resumed by shard, taken over row by row where known."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import CAPTIONS_NAME, write_captions
from data_schemas.teacher_embeddings import ARRAY_NAME, Shard, TeacherEmbeddings
from pipeline.draft import Draft
from pipeline.progress import progress
from pipeline.stage import Context, Input
from stages.known_captions import KnownRows, find_known_rows
from stages.recipe import Recipe

if TYPE_CHECKING:
    from stages.teacher import Teacher


@dataclass(frozen=True)
class CaptionCounts:
    """What became of the distinct captions.

    Args:
        captions: how many there are.
        encoded_captions: went through the teacher in this run.
        reused_captions: taken over from earlier artifacts of the same teacher and recipe.
        resumed_captions: stood whole from an interrupted run.
        zero_captions: have the zero vector (the teacher knows no word of them); training leaves them out.
    """

    captions: int
    encoded_captions: int
    reused_captions: int
    resumed_captions: int
    zero_captions: int


def write_caption_embeddings(
    captions: pa.Array,
    draft: Draft,
    *,
    teacher: Input,
    recipe: Recipe,
    shard_rows: int,
    device: str,
    batch_tokens: int,
    context: Context,
) -> CaptionCounts:
    """Write the embedding of each distinct caption, row by row of ``captions``.

    Reads:  earlier artifacts of the same teacher and recipe, unless the run is forced.
    Writes: TeacherEmbeddings of shape (captions, teacher_dim), and the captions.

    Args:
        captions: distinct.
        draft: where to.
        teacher: identified.
        recipe: how it embeds.
        shard_rows: rows in one shard.
        device: where the teacher runs.
        batch_tokens: tokens in one batch of the teacher, padding included; 0 takes what suits the device.
        context: the store.

    Raises:
        ProtoRKDError: an embedding is not finite, or too large for the recipe's dtype.
    """
    load_teacher = functools.cache(lambda: _load(teacher, recipe, device))
    write_captions(draft.path, captions)
    draft.adopt(CAPTIONS_NAME)
    known = None
    if not context.force:
        known = find_known_rows(captions, draft, store=context.store, teacher_digest=teacher.digest, recipe=recipe)
    dim = known.dim if known else load_teacher().dim
    embeddings = TeacherEmbeddings.create(
        draft.path, rows=len(captions), dim=dim, dtype=recipe.embedding_dtype, shard_rows=shard_rows
    )
    draft.adopt(f"{ARRAY_NAME}/zarr.json")
    shards = list(embeddings.shards())
    missing = [shard for shard in shards if not draft.is_whole(shard.path)]
    resumed = len(captions) - sum(shard.stop - shard.start for shard in missing)
    encoded = 0
    with progress("encoding captions", total=len(captions), unit="captions", done=resumed) as advance:
        for shard in missing:
            values, num_encoded = _shard_values(
                shard, captions, embeddings, known=known, load_teacher=load_teacher, batch_tokens=batch_tokens
            )
            embeddings.write(shard, values)
            draft.adopt(shard.path)
            encoded += num_encoded
            advance(len(values))
    zero = sum(int((embeddings.read(shard.start, shard.stop) == 0).all(axis=1).sum()) for shard in shards)
    return CaptionCounts(
        captions=len(captions),
        encoded_captions=encoded,
        reused_captions=len(captions) - resumed - encoded,
        resumed_captions=resumed,
        zero_captions=zero,
    )


def _load(teacher: Input, recipe: Recipe, device: str) -> "Teacher":
    """Load the teacher; its libraries take seconds to import, which a run that reuses all rows is spared."""
    from stages.device import choose_device
    from stages.teacher import Teacher

    return Teacher(
        teacher.value,
        max_tokens=recipe.max_tokens,
        prompt=recipe.prompt,
        truncate_dim=recipe.truncate_dim,
        device=str(choose_device(device)),
    )


def _shard_values(
    shard: Shard,
    captions: pa.Array,
    embeddings: TeacherEmbeddings,
    *,
    known: KnownRows | None,
    load_teacher: Callable[[], "Teacher"],
    batch_tokens: int,
) -> tuple[NDArray[Any], int]:
    """One shard's rows, and how many of them the teacher had to embed."""
    num_rows = shard.stop - shard.start
    values = np.empty((num_rows, embeddings.dim), dtype=embeddings.dtype)
    is_known = np.zeros(num_rows, dtype=np.bool_)
    if known is not None:
        is_known = known.is_known[shard.start : shard.stop]
        values[is_known] = known.values[shard.start : shard.stop][is_known]
    rows = np.flatnonzero(~is_known)
    if rows.size:
        chosen = captions.take(pa.array(rows + shard.start)).to_pylist()
        encoded = load_teacher().encode(chosen, batch_tokens=batch_tokens)
        values[rows] = _store_as(encoded, embeddings.dtype, chosen)
    return values, int(rows.size)


def _store_as(encoded: NDArray[np.float32], dtype: "np.dtype[Any]", captions: list[str]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        stored = encoded.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if bad.size:
        caption = captions[bad[0]][:200]
        if np.isfinite(encoded[bad[0]]).all():
            largest = np.abs(encoded[bad]).max()
            raise ProtoRKDError(
                f"--embedding-dtype must hold the teacher's numbers; {dtype} cannot hold {largest:.0f} (caption "
                f"{caption!r}). Use --embedding-dtype float32."
            )
        raise ProtoRKDError(
            f"The teacher must give finite numbers; it gave NaN or infinity for {bad.size} captions, "
            f"first {caption!r}. Look at the teacher's weights."
        )
    return stored
