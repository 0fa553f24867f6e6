"""The images of pairs, known by the rows of their cached features: none of them is opened."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.images.embedded_images import read_images
from data_schemas.pair_index import REJECTED_NAME, read_pairs, read_rejected
from pipeline.store.store import Artifact
from stages.components.images.image_set import ImageSet

_ABSENT = "no features of it"


@dataclass(frozen=True, eq=False)
class FeatureImages(ImageSet):
    """Images of pairs, each with the row of its features; those without one are missing.

    Args:
        rows: Image row of each image, -1 where it is missing.

    Shapes:
        rows: (images,), int64.
    """

    rows: NDArray[np.int64] = field(kw_only=True)

    def select(self, numbers: Sequence[int]) -> "FeatureImages":
        """Return the set of the chosen images, numbered anew in the given order."""
        chosen = [self.paths[number] for number in numbers]
        return dataclasses.replace(self, paths=chosen, missing=self._missing_of(numbers), rows=self.rows[list(numbers)])


def find_features(features: Artifact, embeddings: Artifact) -> FeatureImages:
    """Find the features of each pair's image, by its path as the manifest writes it.

    Args:
        features: Artifact of encode-images.
        embeddings: Artifact of encode-teacher, whose pair index names the images.

    Raises:
        ProtoRKDError: a file of either is missing or damaged.
    """
    table = read_images(features.path)
    names = read_pairs(embeddings.path)["image"].combine_chunks()
    places = pc.index_in(names, value_set=table["image"].combine_chunks())
    rows = table["image_row"].combine_chunks().take(places)
    rejected = read_rejected(features.path) if rows.null_count and (features.path / REJECTED_NAME).is_file() else []
    reasons = {rejection.value: rejection.reason for rejection in rejected}
    absent = pa.array(np.arange(len(names))).filter(rows.is_null()).to_pylist()
    return FeatureImages(
        root=features.path,
        paths=names.to_pylist(),
        missing={pair: reasons.get(names[pair].as_py(), _ABSENT) for pair in absent},
        rows=rows.fill_null(-1).to_numpy().astype(np.int64),
    )


def check_matched(images: FeatureImages, *, features: Artifact, embeddings: Artifact, most_missing: int) -> None:
    """Refuse features of other images than those that the pairs name.

    Args:
        images: Images of the pairs, as `find_features` found them.
        features: Artifact of encode-images.
        embeddings: Artifact of encode-teacher.
        most_missing: Most images that may have no features.

    Raises:
        ProtoRKDError: more have none.
    """
    if len(images.missing) <= most_missing:
        return
    first = min(images.missing)
    raise ProtoRKDError(
        f"--features must be of the images that the pairs name, by the same paths; of {len(images.paths)} pairs "
        f"{len(images.missing)} have no features, and at most {most_missing} may (--max-bad-fraction). First: row "
        f"{first}, {images.paths[first]}: {images.missing[first]}. Got features {features.record.digest[:12]} "
        f"({features.path}) for embeddings {embeddings.record.digest[:12]} ({embeddings.path}). Run encode-images on "
        "the manifest of these embeddings, or name others by --embeddings."
    )
