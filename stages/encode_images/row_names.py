"""Name the rows of views by what an image is and what was done to it, so that equal rows are found again."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.store import Artifact, Store
from stages.components.embeddings.distinct_images import read_keys

if TYPE_CHECKING:
    from stages.encode_images.options import EncodeImagesParams

_STAGE = "encode-images"


def name_rows(digests: pa.Array, *, views: int, augmentation: str, seed: int) -> pa.Array:
    """Name each row by the digest of its image, and where it is not the image as it is by what was done to it.

    Args:
        digests: Digest of each distinct image; null where it is unknown, and then rows have no name.
        views: Rows of each image.
        augmentation: Name of the augmentation of views after the first.
        seed: Seed of the augmentation.

    Example:
        >>> name_rows(pa.array(["3f"]), views=2, augmentation="crop", seed=5).to_pylist()
        ['3f', '3f crop 5 1']
    """
    if views == 1:
        return digests
    kinds = pa.array(["", *(f" {augmentation} {seed} {view}" for view in range(1, views))], pa.large_string())
    each = digests.take(pa.array(np.repeat(np.arange(len(digests)), views))).cast(pa.large_string())
    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(each, kinds.take(pa.array(np.tile(np.arange(views), len(digests)))), empty)


def read_row_names(artifact: Artifact) -> pa.Array:
    """Read the names of an artifact's rows, as `name_rows` makes them.

    Raises:
        ProtoRKDError: the list of images is not as it was written.
    """
    params = artifact.record.params
    return name_rows(
        read_keys(artifact), views=params["views"], augmentation=params["augmentation"], seed=params["seed"]
    )


def find_sources(
    store: Store, backbone_digest: str, params: "EncodeImagesParams", *, precision: str | None
) -> list[Artifact]:
    """Find the artifacts whose rows may equal those of a run, the newest first.

    Args:
        store: Store with earlier artifacts.
        backbone_digest: Digest of the backbone's artifact.
        params: Parameters of the run.
        precision: Precision that the backbone runs in; None takes any.
    """
    return [
        artifact
        for artifact in reversed(store.artifacts(_STAGE))
        if backbone_digest in artifact.record.uses
        and precision in (None, artifact.record.environment.get("precision"))
        and artifact.record.params["feature_dtype"] == params.feature_dtype
    ]
