"""Classify zero-shot: an image gets the class whose name, put into prompts, lies nearest."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.components.metrics.ranking import TIE_TOLERANCE, check_labels, expected_label_hits
from stages.components.metrics.unit_rows import STUDENT_REMEDY, TEACHER_REMEDY, exact_scores, unit_rows


@exact_scores()
def class_embeddings(prompt_embeddings: Tensor) -> Tensor:
    """Average the prompts of each class into one embedding, every prompt with equal weight.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.

    Shapes:
        prompt_embeddings: (classes, templates, dim), float, any scale.
        returns: (classes, dim), float32, unit rows; zero where the prompts cancel out.
    """
    classes, templates, dim = prompt_embeddings.shape
    rows = unit_rows(prompt_embeddings.reshape(-1, dim), name="Prompt embeddings", remedy=TEACHER_REMEDY)
    return normalize(rows.reshape(classes, templates, dim).mean(dim=1), dim=1)


@exact_scores()
def class_scores(*, image_embeddings: Tensor, class_embeddings: Tensor) -> Tensor:
    """Compute the cosine similarity of every image with every class.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.

    Shapes:
        image_embeddings: (images, dim), float, any scale.
        class_embeddings: (classes, dim), float, any scale.
        returns: (images, classes), float32, from -1 to 1.
    """
    images = unit_rows(image_embeddings, name="Image embeddings", remedy=STUDENT_REMEDY)
    classes = unit_rows(class_embeddings, name="Class embeddings", remedy=TEACHER_REMEDY)
    return images @ classes.to(images.device).T


def per_class_top1(*, scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the top-1 accuracy of each class as a percentage, NaN for a class without images.

    Raises:
        ValueError: the labels do not fit the scores.

    Shapes:
        scores: (images, classes), float, from `class_scores`.
        labels: (images,), int64.
        returns: (classes,), float64, on the CPU.
    """
    num_rows, num_classes = scores.shape
    check_labels(labels, num_rows=num_rows, num_classes=num_classes)
    hits = expected_label_hits(scores=scores, labels=labels.to(scores.device), k=1, tolerance=TIE_TOLERANCE).cpu()
    correct = torch.bincount(labels.cpu(), weights=hits, minlength=num_classes)
    return 100 * correct / torch.bincount(labels.cpu(), minlength=num_classes)
