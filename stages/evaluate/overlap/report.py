"""Report which images of the evaluated sets a student has seen in training."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.log import log
from pipeline.stage import Context, Input
from stages.components.images.image_set import ImageSet
from stages.components.inputs.training_images import AbsentImages
from stages.evaluate.overlap.near_duplicates import find_overlap
from stages.evaluate.overlap.perceptual_hash import hash_images
from stages.evaluate.sets.evaluation_sets import AnySet, ClassSet, RetrievalSet

_LISTED_PAIRS = 20


class OverlapReport(NamedTuple):
    """Overlap with the training images, set by set.

    Args:
        entries: Entries of the report, one per set.
        used: Digests of the artifacts that they rest on.
    """

    entries: list[dict[str, Any]]
    used: set[str]


def measure_overlap(
    sets: Iterable[AnySet], *, training: Input[ImageSet] | AbsentImages | None, workers: int, context: Context
) -> OverlapReport:
    """Look for the images of each set among the training images.

    Args:
        sets: Sets of the evaluation; only their images to be measured on count, and a set without any gets no entry.
        training: Training images, or why they are unavailable; None where nobody asks for the overlap.
        workers: Threads that read images.
        context: Store of the hashes.

    Raises:
        ProtoRKDError: the hashes of images cannot be kept or read.
    """
    image_sets = dict(_images(sets))
    if training is None or not image_sets:
        return OverlapReport([], set())
    if isinstance(training, AbsentImages):
        log.info("evaluate: overlap with the training images is not looked for: %s", training.value)
        return OverlapReport([], set())
    seen = hash_images(training, workers=workers, context=context)
    entries, used = [], {seen.digest}
    for name, images in image_sets.items():
        hashes = hash_images(images, workers=workers, context=context)
        overlap = find_overlap(evaluation=hashes, training=seen)
        used.add(hashes.digest)
        entries.append(
            {
                "name": name,
                **{key: getattr(overlap, key) for key in overlap.__dataclass_fields__ if key.startswith("num_")},
                "pairs": [vars(pair) for pair in overlap.pairs[:_LISTED_PAIRS]],
            }
        )
    return OverlapReport(entries, used)


def _images(sets: Iterable[AnySet]) -> Iterable[tuple[str, Input[ImageSet]]]:
    for evaluation_set in sets:
        match evaluation_set:
            case RetrievalSet(name=name, images=images):
                yield name, images
            case ClassSet(name=name, test=test) if test is not None:
                yield name, test.images
