"""Choose the pairs that the page shows: those that fit the worst and the best, and near-duplicates that differ."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.report.corpus import CaptionCorpus, ImageCorpus, Standardisation
from stages.report.measures.images import NearImages

_NUM_EXTREMES = 12
_NUM_PAIRS = 8
_MOST_COMPARED = 20_000  # pairs of near-duplicate captions


def extreme_pairs(
    cosines: Tensor, numbers: NDArray[np.int64], images: ImageCorpus, captions: CaptionCorpus
) -> dict[str, list[dict[str, Any]]]:
    """Choose the pairs whose caption the ridge baseline puts farthest from their image, and nearest to it.

    Args:
        cosines: Cosine of each sampled pair's caption and prediction.
        numbers: Numbers of the sampled pairs among those of ``images``.
        images: Images of the pairs.
        captions: Captions of the pairs.

    Shapes:
        cosines: (sampled,), float32; numbers: (sampled,), int64.
    """
    order = cosines.argsort(stable=True).tolist()
    num = min(_NUM_EXTREMES, len(order) // 2)
    chosen = {"farthest": order[:num], "nearest": order[::-1][:num]}
    return {
        name: [{**_pair(int(numbers[place]), images, captions), "cosine": float(cosines[place])} for place in places]
        for name, places in chosen.items()
    }


def differing_images(
    found: Mapping[str, Any], images: ImageCorpus, captions: CaptionCorpus, standardise: Standardisation
) -> list[dict[str, Any]]:
    """Choose near-duplicate captions whose images differ the most.

    Args:
        found: Pairs of near-duplicate captions, from `count_near_duplicates`.
        images: Images of the pairs.
        captions: Captions.
        standardise: Standardisation of the features.
    """
    number_of = np.full(len(captions.numbers), -1)
    number_of[images.captions[::-1]] = np.arange(len(images.captions))[::-1]  # the first image of a caption
    places = captions.places[found["pairs"][:_MOST_COMPARED]]  # (pairs of captions, 2)
    numbers = number_of[places]
    is_compared = (numbers >= 0).all(axis=1) & (numbers[:, 0] != numbers[:, 1])
    numbers, cosines = numbers[is_compared], found["cosines"][:_MOST_COMPARED][is_compared]
    likeness = _likeness(numbers, images, standardise)
    chosen = _spread(likeness.argsort(stable=True).tolist(), numbers)
    return [_two(numbers[place], cosines[place], likeness[place], images, captions) for place in chosen]


def differing_captions(
    near: NearImages, images: ImageCorpus, captions: CaptionCorpus, *, cosine: float
) -> list[dict[str, Any]]:
    """Choose nearly equal images whose captions differ the most.

    Args:
        near: Nearest other image of each sampled one.
        images: Images of the pairs.
        captions: Captions of the pairs.
        cosine: Cosine of standardised features from which two images are nearly equal.
    """
    is_near = near.cosines >= cosine
    numbers = np.stack([near.numbers[is_near], near.nearest[is_near]], axis=1)
    first, second = (captions.vectors[torch.from_numpy(images.captions[side])] for side in numbers.T)
    cosines = (first * second).sum(dim=1)
    chosen = _spread(cosines.argsort(stable=True).tolist(), numbers)
    likeness = torch.from_numpy(near.cosines[is_near])
    return [_two(numbers[place], cosines[place], likeness[place], images, captions) for place in chosen]


def _likeness(numbers: NDArray[np.int64], images: ImageCorpus, standardise: Standardisation) -> Tensor:
    """Compute the cosine of the standardised features of two images each: (pairs, 2) to (pairs,), float32."""
    distinct, places = np.unique(numbers, return_inverse=True)
    if not len(distinct):
        return torch.empty(0)
    rows = standardise.unit(images.take(distinct))
    first, second = torch.from_numpy(places.reshape(-1, 2)).T
    return (rows[first] * rows[second]).sum(dim=1)


def _spread(order: list[int], numbers: NDArray[np.int64]) -> list[int]:
    """Take the first few in which no image comes twice."""
    chosen: list[int] = []
    seen: set[int] = set()
    for place in order:
        of_place = set(numbers[place].tolist())
        if not of_place & seen:
            chosen.append(place)
            seen |= of_place
        if len(chosen) == _NUM_PAIRS:
            break
    return chosen


def _two(
    numbers: NDArray[np.int64], caption_cosine: Any, image_cosine: Any, images: ImageCorpus, captions: CaptionCorpus
) -> dict[str, Any]:
    return {
        "pairs": [_pair(int(number), images, captions) for number in numbers],
        "caption_cosine": float(caption_cosine),
        "image_cosine": float(image_cosine),
    }


def _pair(number: int, images: ImageCorpus, captions: CaptionCorpus) -> dict[str, Any]:
    pair = int(images.pairs[number])
    return {"pair": pair, "image": images.images.paths[pair], "caption": captions.text(int(images.captions[number]))}
