"""What of the sets a student has seen in training, for the report."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline.log import log
from pipeline.stage import Context, Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.inputs import AbsentImages
from stages.evaluate.overlap.near_duplicates import find_overlap
from stages.evaluate.overlap.perceptual_hash import hash_images
from stages.evaluate.sets.evaluation_sets import AnySet, ClassSet, RetrievalSet

_LISTED_PAIRS = 20


class OverlapReport(NamedTuple):
    """What was found, set by set.

    Args:
        entries: for the report.
        used: digests of the artifacts that it rests on.
    """

    entries: list[dict[str, Any]]
    used: set[str]


def measure_overlap(
    sets: Iterable[AnySet], *, training: Input[ImageSet] | AbsentImages | None, workers: int, context: Context
) -> OverlapReport:
    """Look for the images of each set among the training images.

    Args:
        sets: of which the images to be measured on count; a set with other images has none.
        training: Training images, or why they are not to be had; None where nobody asks.
        workers: threads that read images.
        context: the store.

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
        found = find_overlap(evaluation=hashes, training=seen)
        used.add(hashes.digest)
        entries.append(
            {
                "name": name,
                **{key: getattr(found, key) for key in found.__dataclass_fields__ if key.startswith("num_")},
                "pairs": [vars(pair) for pair in found.pairs[:_LISTED_PAIRS]],
            }
        )
    return OverlapReport(entries, used)


def _images(sets: Iterable[AnySet]) -> Iterable[tuple[str, Input[ImageSet]]]:
    for found in sets:
        match found:
            case RetrievalSet(name=name, images=images):
                yield name, images
            case ClassSet(name=name, test=test) if test is not None:
                yield name, test.images
