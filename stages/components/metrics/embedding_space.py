"""Helpers that the measures of an embedding space share: paired unit rows, seeded samples, correlations."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.components.metrics.ranking import TIE_TOLERANCE
from stages.components.metrics.unit_rows import STUDENT_REMEDY, TEACHER_REMEDY, unit_rows

Values = NDArray[np.float64]


class PairedRows(NamedTuple):
    """Unit rows of both spaces on the CPU, and which image each caption describes.

    Shapes:
        images: (images, dim), float32; captions: (captions, dim), float32.
        caption_image: (captions,), int64.
    """

    images: Tensor
    captions: Tensor
    caption_image: Tensor


def paired_rows(*, image_embeddings: Tensor, caption_embeddings: Tensor, caption_image: Tensor) -> PairedRows:
    """Bring images and captions to unit length, and check that they belong together.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
        ValueError: the shapes do not fit together, a caption's image is out of range, or an image has no caption.

    Shapes:
        image_embeddings: (images, dim), float, any scale; caption_embeddings: (captions, dim), float, any scale.
        caption_image: (captions,), int64.
    """
    images = unit_rows(image_embeddings, name="Image embeddings", remedy=STUDENT_REMEDY).cpu()
    captions = unit_rows(caption_embeddings, name="Caption embeddings", remedy=TEACHER_REMEDY).cpu()
    if images.shape[1] != captions.shape[1]:
        raise ValueError(f"Images and captions must share one dim; got {images.shape[1]} and {captions.shape[1]}.")
    if caption_image.shape != (len(captions),) or len(captions) == 0:
        raise ValueError(
            f"caption_image must have shape ({len(captions)},) and not be empty; got {tuple(caption_image.shape)}."
        )
    low, high = int(caption_image.min()), int(caption_image.max())
    if low < 0 or high >= len(images):
        raise ValueError(f"caption_image must lie from 0 to {len(images) - 1}; got {low} to {high}.")
    counts = torch.bincount(caption_image.cpu(), minlength=len(images))
    if not counts.all():
        raise ValueError(f"Every image must have a caption; got none for image {int((counts == 0).nonzero()[0])}.")
    return PairedRows(images, captions, caption_image.cpu())


def draw_rows(num_rows: int, *, limit: int, seed: int) -> Tensor:
    """Draw at most ``limit`` of ``num_rows`` rows without replacement; all of them where there are no more.

    Shapes:
        returns: (min(num_rows, limit),), int64, ascending.
    """
    if num_rows <= limit:
        return torch.arange(num_rows)
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))[:limit].sort().values


def pearson(first: Values, second: Values) -> float:
    """Correlate two lists of values, from -1 to 1; 0 where one of them is constant.

    Values that differ by less than a rounding error of cosines are equal, here and in `spearman`: the rounding noise
    of a collapsed space correlates with nothing.

    Shapes:
        first: (values,), float64; second: (values,), float64.
    """
    return _correlation(_rounded(first), _rounded(second))


def spearman(first: Values, second: Values) -> float:
    """Correlate the ranks of two lists of values, from -1 to 1; 0 where one of them is constant.

    Equal values share the mean of their ranks.

    Shapes:
        first: (values,), float64; second: (values,), float64.
    """
    return _correlation(_mean_ranks(_rounded(first)), _mean_ranks(_rounded(second)))


def _rounded(values: Values) -> Values:
    return np.round(values / TIE_TOLERANCE) * TIE_TOLERANCE


def _mean_ranks(values: Values) -> Values:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _correlation(first: Values, second: Values) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
