"""Reuse the embeddings of captions from earlier artifacts of the same teacher and recipe."""

import pyarrow as pa

from data_schemas.embedding_array import CAPTION_KIND
from data_schemas.pair_index import CAPTIONS_NAME, read_captions
from pipeline.stage import Context
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.reused_rows import ReusedRows, count_unknown_rows, find_known_rows
from stages.components.teacher.encoding_options import EncodingOptions

# Stages whose artifacts hold teacher embeddings with their captions.
EMBEDDING_STAGES = ("encode-teacher", "caption-embeddings")


def find_known_captions(
    captions: pa.Array, draft: Draft, *, context: Context, teacher_digest: str, recipe: EncodingOptions
) -> ReusedRows | None:
    """Gather the embeddings of captions that the store already has; None if it has none of them.

    Args:
        captions: Distinct captions.
        draft: Draft whose state folder holds the gathered rows.
        context: Context of the run, with the store of the earlier artifacts.
        teacher_digest: Identity of the teacher.
        recipe: How the teacher embeds.
    """
    sources = _sources(context.store, teacher_digest, recipe)
    return find_known_rows(
        captions, draft, sources=sources[::-1], context=context, read_keys=_read_captions, kind=CAPTION_KIND
    )


def count_unknown(captions: pa.Array, *, store: Store, teacher_digest: str, recipe: EncodingOptions) -> int:
    """Count the captions that `find_known_captions` would leave to the teacher, without reading embeddings.

    Args:
        captions: Distinct captions.
        store: Store with the earlier artifacts.
        teacher_digest: Identity of the teacher.
        recipe: How the teacher embeds.
    """
    sources = _sources(store, teacher_digest, recipe)
    return count_unknown_rows(captions, sources=sources[::-1], store=store, read_keys=_read_captions)


def _read_captions(artifact: Artifact) -> pa.Array:
    artifact.require_whole((CAPTIONS_NAME,), read=True)
    return read_captions(artifact.path)


def _sources(store: Store, teacher_digest: str, recipe: EncodingOptions) -> list[Artifact]:
    return [
        artifact
        for stage in EMBEDDING_STAGES
        for artifact in store.artifacts(stage)
        if artifact.record.inputs["teacher"].digest == teacher_digest
        and EncodingOptions.of(artifact.record.params) == recipe
    ]
