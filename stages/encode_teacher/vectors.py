"""Take the vectors of captions that another tool computed."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from data_schemas.embedding_array import CAPTION_KIND
from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import VALUE_CHARS, Manifest, Rejection
from data_schemas.pair_index import write_rejected
from data_schemas.vector_sources.part import POSITION, ROW_KEY
from pipeline.store.draft import Draft
from stages.components.embeddings.caption_embeddings import adopt_captions
from stages.components.embeddings.gathered_vectors import Wanted, check_missing, gather_vectors, write_vectors
from stages.components.inputs.vectors import VectorSource

if TYPE_CHECKING:
    from stages.encode_teacher.options import EncodeParams, EncodeRuntime


def take_vectors(
    params: "EncodeParams",
    runtime: "EncodeRuntime",
    manifest: Manifest,
    captions: pa.Array,
    pairs: pa.Table,
    *,
    source: VectorSource,
    draft: Draft,
) -> dict[str, Any]:
    """Write the vector of each distinct caption as its embedding; a caption without one has the zero vector.

    Training leaves out pairs whose caption has none; they are among the rejected rows. Returns counts for the record.

    Args:
        params: Parameters of the stage.
        runtime: Runtime options of the stage.
        manifest: The pairs, and the rows that are rejected already.
        captions: Distinct captions.
        pairs: Pair index.
        source: Vectors.
        draft: Draft of the artifact.

    Raises:
        ProtoRKDError: a vector is not finite, widths or repeated vectors differ, or too many captions have none.
    """
    adopt_captions(captions, draft)
    wanted = _wanted(source, manifest, captions, pairs)
    gathered = gather_vectors(source, wanted, draft, dtype=params.embedding_dtype, flag="--embedding-dtype")
    caption_rows = pairs["caption_row"].to_numpy()
    rows = pairs["manifest_row"].to_numpy()
    missing = np.flatnonzero(~gathered.rows.is_known[caption_rows])
    rejections = [
        Rejection(
            int(rows[pair]),
            gathered.reason(int(caption_rows[pair])),
            captions[int(caption_rows[pair])].as_py()[:VALUE_CHARS],
        )
        for pair in missing
    ]
    check_missing(
        [f"row {entry.row}, {entry.value!r}: {entry.reason}" for entry in rejections],
        total=pairs.num_rows,
        source=source,
        max_bad_fraction=runtime.max_bad_fraction,
    )
    write_vectors(draft, gathered, kind=CAPTION_KIND, shard_rows=params.shard_rows)
    write_rejected(draft.path, [*manifest.rejections, *rejections])
    num_missing = int((~gathered.rows.is_known).sum())
    return {
        "rejected_rows": len(manifest.rejections) + len(rejections),
        "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
        "captions": len(captions),
        "zero_captions": num_missing,
        "unused_vectors": gathered.num_unused,
        "repeated_vectors": gathered.num_repeated,
    }


def _wanted(source: VectorSource, manifest: Manifest, captions: pa.Array, pairs: pa.Table) -> Wanted:
    """Say which keys the vectors of captions have: texts, rows of the manifest, or places among the pairs."""
    caption_rows, num = pairs["caption_row"].to_numpy(), len(captions)
    if source.key == ROW_KEY:
        return Wanted(pairs["manifest_row"].combine_chunks(), caption_rows, num, noun="caption")
    if source.key == POSITION:
        if manifest.rejections:
            raise ProtoRKDError(
                f"{source.path} must have a table of keys beside it, for {len(manifest.rejections)} rows of "
                f"{manifest.path} are rejected, and places do not tell whose a vector is. Write one with the column "
                "caption or manifest_row."
            )
        return Wanted(pa.array(np.arange(pairs.num_rows)), caption_rows, num, noun="caption")
    return Wanted(captions.cast(pa.large_string()), np.arange(num), num, noun="caption")
