"""An artifact of encode-images from given numbers, through the real schemas."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.embedding_array import FEATURE_KIND, EmbeddingArray
from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.images.embedded_images import IMAGES_NAME, write_images
from data_schemas.images.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.manifest import Rejection
from data_schemas.pair_index import REJECTED_NAME, write_rejected
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store


@dataclass(frozen=True)
class _Options:
    """None."""


@dataclass(frozen=True)
class _Given:
    """What the artifact holds."""

    paths: Sequence[str]
    values: NDArray[Any]
    views: int
    rejected: Sequence[Rejection]
    backbone: Artifact | None


@dataclass(frozen=True)
class _Sources:
    vectors: Input[_Given]
    backbone: Input[Artifact] | None = field(default=None)


def make_features(
    store: Path | Store,
    paths: Sequence[str],
    values: NDArray[Any],
    *,
    views: int = 1,
    rejected: Sequence[Rejection] = (),
    backbone: Artifact | None = None,
) -> Artifact:
    """Make an artifact of encode-images.

    Args:
        store: Store that it goes into.
        paths: Path of each image; those of rejected images are left out of ``images.parquet``.
        values: Features, (images * views, dim), float16 or float32; row ``image * views + view``.
        views: Views of each image.
        rejected: Images that count as unreadable, by their path in ``value``.
        backbone: Artifact of the backbone that computed them; None: another tool did.
    """
    store = store if isinstance(store, Store) else Store(store)
    given = _Given(paths, values, views, rejected, backbone)
    outcome = run_stage(
        _STAGE, params=_Options(), inputs=given, runtime=_Options(), context=context_of(store, stages=())
    )
    return outcome.artifact


def _identify(given: _Given, _params: _Options, _context: Context) -> _Sources:
    words = repr([*given.paths, given.views, [each.value for each in given.rejected]])
    digest = hashlib.sha256(words.encode() + np.ascontiguousarray(given.values).tobytes()).hexdigest()
    backbone = given.backbone
    return _Sources(
        vectors=Input(digest=digest, location="given", value=given),
        backbone=None if backbone is None else Input(digest=backbone.record.digest, value=backbone),
    )


def _run(_params: _Options, sources: _Sources, out: Draft, _runtime: _Options, _context: Context) -> Result:
    given = sources.vectors.value
    rows, dim = given.values.shape
    array = EmbeddingArray.create(
        out.path, rows=rows, dim=dim, dtype=str(given.values.dtype), shard_rows=256, kind=FEATURE_KIND
    )
    for shard in array.shards():
        array.write(shard, given.values[shard.start : shard.stop])
        out.adopt(shard.path)
    bad = {each.value for each in given.rejected}
    kept = [(row, path) for row, path in enumerate(given.paths) if path not in bad]
    columns = {
        "image_row": pa.array([row for row, _ in kept], pa.int64()),
        "image": pa.array([path for _, path in kept], pa.large_string()),
        "sha256": pa.nulls(len(kept), pa.large_string()),
    }
    write_images(out.path, pa.table(columns))
    write_rejected(out.path, given.rejected)
    backbone = given.backbone
    FeaturesConfig(
        backbone=None if backbone is None else BackboneConfig.read(backbone.path),
        backbone_digest="" if backbone is None else backbone.record.digest,
        precision="" if backbone is None else "fp32",
        views=given.views,
        augmentation="none" if given.views == 1 else "light",
    ).write(out.path)
    for name in (CONFIG_NAME, IMAGES_NAME, REJECTED_NAME, "features.zarr/zarr.json"):
        out.adopt(name)
    return Result(counts={"images": len(kept)})


_STAGE = Stage(
    name="encode-images",
    version=1,
    summary="Hold given features.",
    params=_Options,
    inputs=_Given,
    runtime=_Options,
    identify=_identify,
    run=_run,
)
