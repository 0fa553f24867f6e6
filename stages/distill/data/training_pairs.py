"""The pairs that a student is trained on, and those that are held out for validation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_labels, read_pairs
from pipeline.log import log
from pipeline.store.store import Artifact
from stages.components.images.image_set import ImageSet
from stages.distill.data.batch_order import Order
from stages.distill.data.examples import Examples, split_validation
from stages.distill.data.targets import Targets

if TYPE_CHECKING:
    from stages.distill.options import DistillParams


@dataclass(frozen=True)
class TrainingPairs:
    """The pair index, and which of its pairs are trained on.

    Args:
        images: Image of each pair.
        manifest_rows: Row of the manifest that each pair comes from.
        caption_rows: Row of the embeddings that belongs to each pair's caption.
        examples: Examples to train on.
        held_out: Pairs of the images that are kept for validation.
        num_zero: Number of pairs that are left out because their caption has the zero vector.
        num_labels: Number of distinct labels.
        order: Order in which examples are trained on; None is that of `BatchRequests`.

    Shapes:
        manifest_rows, caption_rows: (pairs,), int64.
        held_out: (validation pairs,), int64.
    """

    images: ImageSet
    manifest_rows: NDArray[np.int64]
    caption_rows: NDArray[np.int64]
    examples: Examples
    held_out: NDArray[np.int64]
    num_zero: int
    num_labels: int
    order: Order | None = None

    @property
    def num(self) -> int:
        """Number of all pairs."""
        return len(self.manifest_rows)

    def image_numbers(self) -> NDArray[np.int64]:
        """Number the images of examples, those with the same path alike: (examples,), int64."""
        paths = pa.array(self.images.paths, pa.large_string()).take(pa.array(self.examples.pairs))
        numbers: NDArray[np.int64] = paths.dictionary_encode().indices.to_numpy().astype(np.int64)
        return numbers


def choose_pairs(
    params: "DistillParams", *, embeddings: Artifact, images: ImageSet, targets: Targets, max_missing: int
) -> TrainingPairs:
    """Leave out pairs without an image, or with a caption that the teacher does not know; hold out a slice.

    Raises:
        ProtoRKDError: more images are missing than ``max_missing``, or too few pairs are left.
    """
    table = read_pairs(embeddings.path)
    names, labels = read_labels(embeddings.path)
    caption_rows = table["caption_row"].to_numpy().copy()  # torch wants writable arrays
    is_zero = targets.is_zero().numpy()[caption_rows]
    usable = _usable(images, is_zero, max_missing=max_missing)
    to_train, held_out = split_validation(table, usable, fraction=params.validation_fraction, seed=params.seed)
    examples = Examples.of(
        table, to_train, captions_per_image=params.captions_per_image, labels=labels, seed=params.seed
    )
    return TrainingPairs(
        images=images,
        manifest_rows=table["manifest_row"].to_numpy(),
        caption_rows=caption_rows,
        examples=examples,
        held_out=held_out,
        num_zero=int(is_zero.sum()),
        num_labels=len(names),
    )


def _usable(images: ImageSet, is_zero: NDArray[np.bool_], *, max_missing: int) -> NDArray[np.int64]:
    if len(images.missing) > max_missing:
        first = min(images.missing)
        raise ProtoRKDError(
            f"At most {max_missing} images may be missing (--max-bad-fraction); got {len(images.missing)} of "
            f"{len(images.paths)}, first {images.root / images.paths[first]}: {images.missing[first]}. Pass "
            "--image-root, mend the paths, or raise --max-bad-fraction."
        )
    usable = ~is_zero
    usable[list(images.missing)] = False
    if images.missing:
        log.info("distill: %d images are missing; their pairs are left out", len(images.missing))
    if is_zero.any():
        log.info("distill: %d pairs are left out, for the teacher knows no word of their captions", is_zero.sum())
    chosen = np.flatnonzero(usable)
    if len(chosen) < 2:
        raise ProtoRKDError(
            f"Training must have 2 usable pairs or more; got {len(chosen)} of {len(usable)}, for {len(images.missing)} "
            f"images are missing, and the teacher knows no word of {is_zero.sum()} captions. Give more pairs, mend "
            "the paths, or encode with another teacher."
        )
    return chosen
