"""Take the vectors of images that another tool computed."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data_schemas.embedding_array import FEATURE_KIND
from data_schemas.images.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.gathered_vectors import Wanted, check_missing, gather_vectors, write_vectors

if TYPE_CHECKING:
    from stages.encode_images.options import EncodeImagesParams, EncodeImagesRuntime, EncodeImagesSources


def take_vectors(
    params: "EncodeImagesParams",
    runtime: "EncodeImagesRuntime",
    *,
    sources: "EncodeImagesSources",
    draft: Draft,
    context: Context,
) -> Result:
    """Write the vector of each image as its features; an image without one keeps a row of zeros, and is rejected.

    Raises:
        ProtoRKDError: a vector is not finite, widths or repeated vectors differ, or too many images have none.
    """
    assert sources.vectors is not None
    images = sources.paths.value
    distinct = Distinct.of(images.images, images.digests(context.file_digests))
    num_rows = len(distinct.firsts)
    keys = distinct.keys if images.by_content else pa.array(list(images.images.paths), pa.large_string())
    source = sources.vectors.value
    wanted = Wanted(keys, np.arange(num_rows), num_rows, noun="image")
    gathered = gather_vectors(source, wanted, draft, dtype=params.feature_dtype, flag="--feature-dtype")
    FeaturesConfig(backbone=None, backbone_digest="", precision="").write(draft.path)
    draft.adopt(CONFIG_NAME)
    missing = np.flatnonzero(~gathered.rows.is_known[distinct.rows]).tolist()
    paths = distinct.images.paths
    rejections = [Rejection(number, gathered.reason(int(distinct.rows[number])), paths[number]) for number in missing]
    check_missing(
        [f"{entry.value}: {entry.reason}" for entry in rejections],
        total=len(paths),
        source=source,
        max_bad_fraction=runtime.max_bad_fraction,
    )
    write_vectors(draft, gathered, kind=FEATURE_KIND, shard_rows=params.shard_rows)
    write_rejected(draft.path, rejections)
    distinct.write(draft.path, without=set(missing))
    return Result(
        counts={
            "images": len(paths) - len(missing),
            "distinct_images": int(gathered.rows.is_known.sum()),
            "rejected_images": len(missing),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "unused_vectors": gathered.num_unused,
            "repeated_vectors": gathered.num_repeated,
        }
    )
