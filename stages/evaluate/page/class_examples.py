"""Images of a set of classes for the page: an even sample, accuracy of each class, what the worst are taken for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.components.report.even_sample import choose_queries
from stages.components.report.thumbnails import Thumbnails
from stages.evaluate.metrics.zero_shot import per_class_top1
from stages.evaluate.page.gallery import ClassAccuracy, ClassExample, Confusion, TakenFor

_NUM_EXAMPLES = 12
_NUM_CONFUSIONS, _NUM_TAKEN_FOR, _NUM_WRONG = 8, 4, 4


@dataclass(frozen=True)
class ScoredClasses:
    """A set of classes, and how a student scores them.

    Args:
        names: of the classes.
        thumbnails: Thumbnails of the images.

    Shapes:
        labels: (images,), int64; scores: (images, classes), float, the higher the likelier.
    """

    names: tuple[str, ...]
    labels: Tensor
    scores: Tensor
    thumbnails: Thumbnails

    @property
    def predicted(self) -> Tensor:
        """The class that each image is taken for: (images,), int64."""
        return self.scores.argmax(dim=1)


def class_examples(found: ScoredClasses) -> tuple[ClassExample, ...]:
    """Show images spread evenly over the set."""
    return _examples(found, choose_queries(_NUM_EXAMPLES, len(found.labels)))


def class_accuracies(found: ScoredClasses) -> tuple[ClassAccuracy, ...]:
    """Top-1 accuracy of the classes that have images, in the order of the classes."""
    counts = torch.bincount(found.labels, minlength=len(found.names)).tolist()
    top1 = per_class_top1(scores=found.scores, labels=found.labels).tolist()
    return tuple(
        ClassAccuracy(class_name=name, top1=accuracy, num_images=count)
        for name, accuracy, count in zip(found.names, top1, counts, strict=True)
        if count
    )


def worst_confusions(found: ScoredClasses) -> tuple[Confusion, ...]:
    """Say of the classes with the lowest accuracy what their images are taken for; perfect classes are left out.

    Images go to the first of equally scored classes here, while the accuracy counts ties as the mean over their orders.
    """
    predicted = found.predicted
    counts = torch.bincount(found.labels, minlength=len(found.names))
    top1 = per_class_top1(scores=found.scores, labels=found.labels)
    order = top1.nan_to_num(nan=torch.inf).argsort(stable=True).tolist()
    worst = [number for number in order if top1[number] < 100][:_NUM_CONFUSIONS]
    return tuple(
        Confusion(
            accuracy=ClassAccuracy(found.names[number], float(top1[number]), int(counts[number])),
            taken_for=_taken_for(found, predicted[found.labels == number]),
            examples=_wrong_examples(found, number),
        )
        for number in worst
    )


def _taken_for(found: ScoredClasses, predicted: Tensor) -> tuple[TakenFor, ...]:
    shares = 100 * torch.bincount(predicted, minlength=len(found.names)).double() / len(predicted)
    order = shares.argsort(descending=True, stable=True)[:_NUM_TAKEN_FOR].tolist()
    return tuple(TakenFor(found.names[number], float(shares[number])) for number in order if shares[number])


def _wrong_examples(found: ScoredClasses, number: int) -> tuple[ClassExample, ...]:
    wrong = ((found.labels == number) & (found.predicted != number)).nonzero().flatten().tolist()
    return _examples(found, [wrong[place] for place in choose_queries(_NUM_WRONG, len(wrong))])


def _examples(found: ScoredClasses, images: list[int]) -> tuple[ClassExample, ...]:
    predicted = found.predicted
    return tuple(
        ClassExample(
            image=found.thumbnails.image(image),
            path=found.thumbnails.path(image),
            true_class=found.names[int(found.labels[image])],
            predicted_class=found.names[int(predicted[image])],
        )
        for image in images
    )
