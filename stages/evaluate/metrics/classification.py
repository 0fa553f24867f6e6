"""Turn a classifier's scores into answers: the class of each image, and whether it is right, fair to ties."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from stages.components.metrics.ranking import check_labels, expected_label_hits


class Classified(NamedTuple):
    """A classifier's answer for every image.

    Args:
        hits: By measure, ``top1``, and ``top5`` for more than five classes: 1 where the image's class is among that
            many best-scored classes, 0 where it is not, a value between where scores are tied.
        predicted: The best-scored class of each image, the first of equals.

    Shapes:
        hits: (images,) each, float64, on the CPU.
        predicted: (images,), int64, on the CPU.
    """

    hits: Mapping[str, Tensor]
    predicted: Tensor


def classify(*, scores: Tensor, labels: Tensor, tolerance: float) -> Classified:
    """Answer with the best-scored classes.

    Args:
        scores: Score of each class; the higher, the likelier the class.
        labels: The right class of each row.
        tolerance: Scores that differ by less are tied; their hits are the mean over all orders of the tied classes.

    Raises:
        ValueError: the labels do not fit the scores.

    Shapes:
        scores: (images, classes), float.
        labels: (images,), int64.
    """
    num_images, num_classes = scores.shape
    check_labels(labels, num_rows=num_images, num_classes=num_classes)
    labels = labels.to(scores.device)
    hits = {
        f"top{k}": expected_label_hits(scores=scores, labels=labels, k=k, tolerance=tolerance).cpu()
        for k in (1, 5)
        if k == 1 or num_classes > k
    }
    return Classified(hits=hits, predicted=scores.argmax(dim=1).cpu())
