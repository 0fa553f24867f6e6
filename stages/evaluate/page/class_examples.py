"""Images of a class set for the page: an even sample, accuracy of each class, what the worst are taken for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.components.report.even_sample import choose_queries
from stages.components.report.thumbnails import Thumbnails
from stages.evaluate.metrics.zero_shot import per_class_top1
from stages.evaluate.page.gallery import ClassAccuracy, ClassExample, ConfusedClass, Confusion

_NUM_EXAMPLES = 12
_NUM_CONFUSIONS, _NUM_TAKEN_FOR, _NUM_WRONG = 8, 4, 4


@dataclass(frozen=True)
class ScoredClasses:
    """A class set, and how a student scores its classes.

    Args:
        names: Names of the classes.
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


def class_examples(classes: ScoredClasses) -> tuple[ClassExample, ...]:
    """Show images spread evenly over the set."""
    return _examples(classes, choose_queries(_NUM_EXAMPLES, len(classes.labels)))


def class_accuracies(classes: ScoredClasses) -> tuple[ClassAccuracy, ...]:
    """Compute the top-1 accuracy of the classes that have images, in the order of the classes."""
    counts = torch.bincount(classes.labels, minlength=len(classes.names)).tolist()
    top1 = per_class_top1(scores=classes.scores, labels=classes.labels).tolist()
    return tuple(
        ClassAccuracy(class_name=name, top1=accuracy, num_images=count)
        for name, accuracy, count in zip(classes.names, top1, counts, strict=True)
        if count
    )


def worst_confusions(classes: ScoredClasses) -> tuple[Confusion, ...]:
    """Show what images of the classes with the lowest accuracy are taken for; perfect classes are left out.

    Here an image goes to the first of equally scored classes; the accuracy counts ties as the mean over their orders.
    """
    predicted = classes.predicted
    counts = torch.bincount(classes.labels, minlength=len(classes.names))
    top1 = per_class_top1(scores=classes.scores, labels=classes.labels)
    order = top1.nan_to_num(nan=torch.inf).argsort(stable=True).tolist()
    worst = [number for number in order if top1[number] < 100][:_NUM_CONFUSIONS]
    return tuple(
        Confusion(
            accuracy=ClassAccuracy(classes.names[number], float(top1[number]), int(counts[number])),
            taken_for=_confused_classes(classes, predicted[classes.labels == number]),
            examples=_wrong_examples(classes, number),
        )
        for number in worst
    )


def _confused_classes(classes: ScoredClasses, predicted: Tensor) -> tuple[ConfusedClass, ...]:
    shares = 100 * torch.bincount(predicted, minlength=len(classes.names)).double() / len(predicted)
    order = shares.argsort(descending=True, stable=True)[:_NUM_TAKEN_FOR].tolist()
    return tuple(ConfusedClass(classes.names[number], float(shares[number])) for number in order if shares[number])


def _wrong_examples(classes: ScoredClasses, number: int) -> tuple[ClassExample, ...]:
    wrong = ((classes.labels == number) & (classes.predicted != number)).nonzero().flatten().tolist()
    return _examples(classes, [wrong[place] for place in choose_queries(_NUM_WRONG, len(wrong))])


def _examples(classes: ScoredClasses, images: list[int]) -> tuple[ClassExample, ...]:
    predicted = classes.predicted
    return tuple(
        ClassExample(
            image=classes.thumbnails.image(image),
            path=classes.thumbnails.path(image),
            true_class=classes.names[int(classes.labels[image])],
            predicted_class=classes.names[int(predicted[image])],
        )
        for image in images
    )
