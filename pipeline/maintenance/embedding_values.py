"""Prove the numbers of embeddings: hashes cannot, because a run that writes wrong numbers hashes those."""

from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact

_METADATA = ".zarr/zarr.json"


def value_problems(artifact: Artifact) -> dict[str, str]:
    """Read an artifact's embeddings; name each shard with NaN, infinity, or more rows of zeros than the record counts.

    An artifact without embeddings has none of these.

    Args:
        artifact: Artifact whose bytes are as its record says.
    """
    described = next((file.path for file in artifact.record.files if file.path.endswith(_METADATA)), None)
    if described is None:
        return {}
    import numpy as np

    from data_schemas.embedding_array import (  # keeps zarr out of --help
        CAPTION_KIND,
        FEATURE_KIND,
        FEATURES_NAME,
        IMAGE_KIND,
        EmbeddingArray,
    )

    counts = artifact.record.counts
    try:
        kind = IMAGE_KIND if "distinct_images" in counts else CAPTION_KIND
        kind = FEATURE_KIND if described.startswith(FEATURES_NAME) else kind
        embeddings = EmbeddingArray.open(artifact.path, kind=kind)
    except ProtoRKDError as error:
        return {described: str(error)}
    problems, zeros = {}, {}
    for shard in embeddings.shards():
        values: Any = np.zeros((shard.stop - shard.start, embeddings.dim), embeddings.dtype)
        try:
            embeddings.decode(shard, (artifact.path / shard.path).read_bytes(), out=values)
        except ProtoRKDError as error:
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            rows = f"has NaN or infinity in {bad.size} rows, first row {shard.start + int(bad[0])}" if bad.size else ""
            problems[shard.path] = rows or str(error)
        if num_zero := int(np.count_nonzero(~values.any(axis=1))):
            zeros[shard.path] = num_zero
    counted = _counted_zeros(artifact.record, embeddings.rows)
    if counted is not None and sum(zeros.values()) > counted:
        why = f"of {sum(zeros.values())} in all, and the record counts {counted}"
        problems |= {path: f"has {number} rows of zeros, {why}" for path, number in zeros.items()} | problems
    return problems


def _counted_zeros(record: ArtifactRecord, num_rows: int) -> int | None:
    """Return how many rows of zeros a record knows of: captions without a known word, or images that were rejected."""
    if "zero_captions" in record.counts:
        return int(record.counts["zero_captions"])
    if "distinct_images" not in record.counts:
        return None
    return num_rows - int(record.counts["distinct_images"]) * int(record.params.get("views", 1))
