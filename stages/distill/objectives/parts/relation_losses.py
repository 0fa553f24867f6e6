"""Compare how images and their captions relate to landmarks, image by image or landmark by landmark."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from stages.components.compute.device import send
from stages.distill.objectives.parts.soft_cross_entropy import divergence


def row_loss(*, student: Tensor, teacher: Tensor, hard: bool) -> Tensor:
    """Compare each image's distribution over landmarks with its caption's, averaged over the batch.

    Args:
        student: Scores of images, over the student's temperature.
        teacher: Scores of captions, over the teacher's temperature.
        hard: Cross-entropy against the caption's best landmark, instead of the divergence from all of them.

    Shapes:
        student, teacher: (batch, landmarks).
        returns: (), at least 0 up to rounding; not hard, 0 where both are equal.
    """
    if hard:
        return cross_entropy(student, teacher.argmax(dim=1))
    return divergence(student, teacher).mean()


def column_loss(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Compare each landmark's distribution over the batch's images with that over their captions.

    A landmark is weighted by its share of the captions' assignments: a ranking of images that are all unrelated to it
    teaches nothing.

    Shapes:
        student, teacher: (batch, landmarks), as in `row_loss`.
        returns: (), at least 0 up to rounding, and 0 where both are equal.
    """
    shares = teacher.softmax(dim=1).mean(dim=0)  # (landmarks,), sums to 1
    given, wanted = log_softmax(student, dim=0), log_softmax(teacher, dim=0)
    return (shares * kl_div(given, wanted, reduction="none", log_target=True).sum(dim=0)).sum()


def with_own_caption(
    scores: Tensor, embeddings: Tensor, captions: Tensor, *, scale: Tensor | float, left_out: Tensor | None
) -> Tensor:
    """Put the score of each row with its own caption before those with the landmarks.

    Args:
        scores: Scaled scores with the landmarks.
        embeddings: What they are scores of.
        captions: The own captions.
        scale: What scores are scaled by.
        left_out: Which landmarks are the row's own caption once more; these get no share.

    Shapes:
        scores: (batch, landmarks).
        embeddings, captions: (batch, dim).
        left_out: (batch, landmarks), bool.
        returns: (batch, 1 + landmarks).
    """
    if left_out is not None:
        scores = scores.masked_fill(left_out, torch.finfo(scores.dtype).min)  # -inf * 0 would be NaN
    return torch.cat([scale * (embeddings * captions).sum(dim=1, keepdim=True), scores], dim=1)


def choose_prototypes(nearest: Tensor, num_prototypes: int, *, size: int, seed: int) -> Tensor:
    """Choose ``size`` prototypes: first those nearest to a caption of the batch, then others at random.

    Shapes:
        nearest: (batch,), int64, from 0 to num_prototypes - 1.
        returns: (min(size, num_prototypes),), int64, each once.
    """
    absent = torch.ones(num_prototypes, dtype=torch.uint8, device=nearest.device).index_fill(0, nearest, 0)
    shuffled = send(torch.randperm(num_prototypes, generator=torch.Generator().manual_seed(seed)), nearest.device)
    return shuffled[absent[shuffled].argsort(stable=True)[:size]]
