"""Rows that need no teacher: captions which an earlier artifact of the same teacher and recipe has embedded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.files import allocate
from data_schemas.pair_index import read_captions
from data_schemas.teacher_embeddings import TeacherEmbeddings
from pipeline.draft import Draft
from pipeline.log import log
from pipeline.store import Artifact, Store
from stages.recipe import Recipe

# Stages whose artifacts hold teacher embeddings with their captions.
EMBEDDING_STAGES = ("encode-teacher", "caption-embeddings")
_SCRATCH_NAME = "known-rows.bin"


@dataclass(frozen=True)
class KnownRows:
    """Embeddings that are taken over.

    Args:
        is_known: (captions,), bool.
        values: (captions, dim), the recipe's dtype, on disk; only the known rows mean anything.
    """

    is_known: NDArray[np.bool_]
    values: NDArray[Any]

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.values.shape[1])


def find_known_rows(
    captions: pa.Array, draft: Draft, *, store: Store, teacher_digest: str, recipe: Recipe
) -> KnownRows | None:
    """Gather the embeddings of captions that the store already has, or None when it has none of them.

    Every source is read once, in row order, so that a shuffled superset of a large artifact costs one pass over it.

    Args:
        captions: distinct.
        draft: its state folder holds the gathered rows, so that they need not fit into memory.
        store: where to look.
        teacher_digest: identity of the teacher.
        recipe: how it embeds.
    """
    is_known = np.zeros(len(captions), dtype=np.bool_)
    values: NDArray[Any] | None = None
    for each in reversed(_sources(store, teacher_digest, recipe)):
        if is_known.all():
            break
        try:
            source = store.fetch(each)
            rows = _rows_in(captions, source)
            rows[is_known] = -1
            if not (rows >= 0).any():
                continue
            embeddings = TeacherEmbeddings.open(source.path)
            if values is None:
                values = _scratch(draft, len(captions), embeddings)
            _copy(embeddings, rows, values)
        except ProtoRKDError as error:
            log.info("passing over %s, which is damaged: %s", each.name, error)
            continue
        is_known |= rows >= 0
    return None if values is None or not is_known.any() else KnownRows(is_known=is_known, values=values)


def _sources(store: Store, teacher_digest: str, recipe: Recipe) -> list[Artifact]:
    return [
        artifact
        for stage in EMBEDDING_STAGES
        for artifact in store.artifacts(stage)
        if artifact.record.inputs["teacher"].digest == teacher_digest and Recipe.of(artifact.record.params) == recipe
    ]


def _rows_in(captions: pa.Array, source: Artifact) -> NDArray[np.int64]:
    """Row of each caption in the source, or -1."""
    source.require_whole()
    found = pc.index_in(captions, value_set=read_captions(source.path))
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def _scratch(draft: Draft, num_captions: int, embeddings: TeacherEmbeddings) -> NDArray[Any]:
    path, shape = draft.state / _SCRATCH_NAME, (num_captions, embeddings.dim)
    allocate(path, num_captions * embeddings.dim * embeddings.dtype.itemsize)
    return np.memmap(path, dtype=embeddings.dtype, mode="r+", shape=shape)


def _copy(embeddings: TeacherEmbeddings, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    wanted = np.flatnonzero(rows >= 0)
    wanted = wanted[np.argsort(rows[wanted], kind="stable")]
    for shard in embeddings.shards():
        first, last = np.searchsorted(rows[wanted], [shard.start, shard.stop])
        if first < last:
            here = wanted[first:last]
            values[here] = embeddings.read(shard.start, shard.stop)[rows[here] - shard.start]
