"""Features of images in a store, as encode-images leaves them, without a backbone or an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.embedded_images import IMAGES_NAME, write_images
from data_schemas.embedding_array import FEATURE_KIND, FEATURES_NAME, EmbeddingArray
from data_schemas.image_features import CONFIG_NAME, FeaturesConfig
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store

_SHARD_ROWS = 256


@dataclass(frozen=True)
class _Params:
    views: int = option(1, help="Rows of each image.")


@dataclass(frozen=True)
class _Sources:
    images: Input[tuple[Sequence[str], NDArray[Any]]]


@dataclass(frozen=True)
class _Inputs:
    sources: _Sources


@dataclass(frozen=True)
class _Runtime:
    """Nothing: features are given."""


def make_features(store: Store, paths: Sequence[str], values: NDArray[Any], *, views: int = 1) -> Artifact:
    """Make an artifact of encode-images.

    Args:
        store: Store of the artifact.
        paths: Path of each image, as a manifest writes it.
        values: Features, (images * views, dim), float16 or float32.
        views: Rows of each image.
    """
    digest = hash_json([list(paths), values.astype(np.float64).tolist()])
    sources = _Sources(Input(digest, value=(paths, values)))
    return run_stage(
        _STAGE, params=_Params(views), inputs=_Inputs(sources), runtime=_Runtime(), context=context_of(store)
    ).artifact


def _write(params: _Params, sources: _Sources, out: Draft, _runtime: _Runtime, _context: Context) -> Result:
    paths, values = sources.images.value
    rows, dim = values.shape
    array = EmbeddingArray.create(
        out.path, rows=rows, dim=dim, dtype=str(values.dtype), shard_rows=_SHARD_ROWS, kind=FEATURE_KIND
    )
    out.adopt(f"{FEATURES_NAME}/zarr.json")
    for shard in array.shards():
        array.write(shard, values[shard.start : shard.stop])
        out.adopt(shard.path)
    columns = {"image_row": np.arange(len(paths)), "image": list(paths), "sha256": pa.nulls(len(paths), pa.string())}
    write_images(out.path, pa.table(columns))
    FeaturesConfig(backbone=None, backbone_digest="", precision="", views=params.views).write(out.path)
    for name in (IMAGES_NAME, CONFIG_NAME):
        out.adopt(name)
    return Result(counts={"images": len(paths), "distinct_images": rows // params.views})


_STAGE = Stage(
    name="encode-images",
    version=1,
    summary="Write features.",
    params=_Params,
    inputs=_Inputs,
    runtime=_Runtime,
    identify=lambda inputs, _params, _context: inputs.sources,
    run=_write,
)
