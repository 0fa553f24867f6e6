"""Overlap of training and evaluation images: exact copies and near-duplicates of what a student has seen.

Exact copies have the same bytes. Near-duplicates have perceptual hashes a few bits apart and look alike as thumbnails:
the same image resized, compressed again, a little brighter or cut by a percent or two, but not mirrored or cropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.overlap.perceptual_hash import FEATURELESS, HASHED, UNREADABLE, ImageHashes

MAX_DISTANCE = 6
MIN_SIMILARITY = 0.9  # of two thumbnails

_NUM_BANDS = 4
_LITTLE_CONTRAST = (0.03 * 255) ** 2
_MAX_PAIRS_PER_IMAGE = 10
_MAX_CANDIDATES = 2**18  # compared at once

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class OverlapPair:
    """An evaluation image and a training image that is its copy.

    Args:
        evaluation: Path of the evaluation image, as its set writes it.
        training: Path of the training image, as its set writes it.
        exact: Whether the bytes are the same.
        distance: Bits in which the hashes differ; 0 for exact copies.
    """

    evaluation: str
    training: str
    exact: bool
    distance: int


@dataclass(frozen=True)
class Overlap:
    """Images that two sets have in common.

    Args:
        num_evaluation: Distinct evaluation images that can be read.
        num_training: Distinct training images that can be read.
        num_exact: Evaluation images with an exact copy among the training images.
        num_near: Evaluation images with a near-duplicate there, and no exact copy.
        num_featureless: Evaluation images without a hash, of which only exact copies are found.
        pairs: Pairs, by evaluation image and then the nearest first, at most 10 per evaluation image.
    """

    num_evaluation: int
    num_training: int
    num_exact: int
    num_near: int
    num_featureless: int
    pairs: tuple[OverlapPair, ...]


def find_overlap(*, evaluation: ImageHashes, training: ImageHashes, max_distance: int = MAX_DISTANCE) -> Overlap:
    """Find the evaluation images that are among the training images.

    Every pair of hashes within the distance is found, by multi-index hashing (Norouzi et al., Fast Search in Hamming
    Space with Multi-Index Hashing, 2012): one of four bands of 16 bits differs in a quarter of the distance at most. A
    pair counts only if its thumbnails are alike, too.

    Args:
        evaluation: Images of a set that a student is measured on.
        training: Images that it was distilled from.
        max_distance: Bits, 0 to 15, in which the hashes of near-duplicates differ at most; from 8 it takes much longer.

    Raises:
        ValueError: the distance is out of range.
    """
    if not 0 <= max_distance <= 15:
        raise ValueError(f"max_distance must lie from 0 to 15; got {max_distance}.")
    exact, near = _exact_pairs(evaluation, training), _near_pairs(evaluation, training, max_distance)
    pairs = np.concatenate([exact, near[~_contains(exact, near)]])
    distances = np.bitwise_count(evaluation.hashes[pairs[:, 0]] ^ training.hashes[pairs[:, 1]])
    is_near = np.arange(len(pairs)) >= len(exact)
    order = np.lexsort((pairs[:, 1], distances, is_near, pairs[:, 0]))
    place = np.arange(len(pairs)) - np.searchsorted(pairs[order, 0], pairs[order, 0])
    listed = order[place < _MAX_PAIRS_PER_IMAGE]
    num_exact = len(np.unique(exact[:, 0]))
    return Overlap(
        num_evaluation=int(np.count_nonzero(evaluation.kinds != UNREADABLE)),
        num_training=int(np.count_nonzero(training.kinds != UNREADABLE)),
        num_exact=num_exact,
        num_near=len(np.unique(pairs[:, 0])) - num_exact,
        num_featureless=int(np.count_nonzero(evaluation.kinds == FEATURELESS)),
        pairs=tuple(
            OverlapPair(
                evaluation=evaluation.paths[pairs[row, 0]],
                training=training.paths[pairs[row, 1]],
                exact=not is_near[row],
                distance=int(distances[row]),
            )
            for row in listed
        ),
    )


def _exact_pairs(evaluation: ImageHashes, training: ImageHashes) -> Rows:
    """Return (pairs, 2): rows of images that can be read and have the same bytes."""
    ours, theirs = (np.flatnonzero(images.kinds != UNREADABLE) for images in (evaluation, training))
    asked, known = evaluation.sha256[ours], training.sha256[theirs]
    index = _Index(known[:, :8].copy().view(np.uint64)[:, 0])
    blocks = [np.empty((0, 2), np.int64)]
    for one, other in index.equal(asked[:, :8].copy().view(np.uint64)[:, 0]):
        same = (asked[one] == known[other]).all(axis=1)
        blocks.append(np.stack([ours[one[same]], theirs[other[same]]], axis=1))
    return np.concatenate(blocks)


def _near_pairs(evaluation: ImageHashes, training: ImageHashes, max_distance: int) -> Rows:
    """Return (pairs, 2), distinct: rows of images whose hashes are near and whose thumbnails are alike."""
    ours, theirs = (np.flatnonzero(images.kinds == HASHED) for images in (evaluation, training))
    asked, known = evaluation.hashes[ours], training.hashes[theirs]
    asked_bands, known_bands = (hashes.view(np.uint16).reshape(-1, _NUM_BANDS) for hashes in (asked, known))
    flips = np.arange(2**16, dtype=np.uint16)
    flips = flips[np.bitwise_count(flips) <= max_distance // _NUM_BANDS]
    blocks = [np.empty((0, 2), np.int64)]
    for band in range(_NUM_BANDS):
        index = _Index(known_bands[:, band])
        for flip in flips:
            for one, other in index.equal(asked_bands[:, band] ^ flip):
                near = np.bitwise_count(asked[one] ^ known[other]) <= max_distance
                pairs = np.stack([ours[one[near]], theirs[other[near]]], axis=1)
                alike = _similarity(evaluation.thumbnails[pairs[:, 0]], training.thumbnails[pairs[:, 1]])
                blocks.append(pairs[alike >= MIN_SIMILARITY])
    return np.unique(np.concatenate(blocks), axis=0)


class _Index:
    """Finds the rows that have a key."""

    def __init__(self, keys: NDArray[Any]) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def equal(self, asked: NDArray[Any]) -> Iterator[tuple[Rows, Rows]]:
        """Yield, in blocks, places among ``asked`` and rows of the index with the same key."""
        first = np.searchsorted(self._keys, asked, side="left")
        counts = np.searchsorted(self._keys, asked, side="right") - first
        ends = np.cumsum(counts)
        start, done = 0, 0
        while start < len(asked):
            stop = max(start + 1, int(np.searchsorted(ends, done + _MAX_CANDIDATES, side="right")))
            places = np.repeat(np.arange(start, stop), counts[start:stop])
            if len(places):
                nth = np.arange(done, ends[stop - 1]) - (ends - counts)[places]
                yield places, self._order[first[places] + nth]
            start, done = stop, int(ends[stop - 1])


def _similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compare thumbnails in contrast and structure, not in brightness; the least similar of red, green and blue counts.

    As in SSIM (Wang et al., Image Quality Assessment, 2004), with its constant for images of hardly any contrast.

    Shapes:
        first, second: (pairs, 8, 8, 3), uint8.
        returns: (pairs,), float32, from -1 to 1; 1 for equal ones.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    one -= one.mean(axis=(1, 2), keepdims=True)
    other -= other.mean(axis=(1, 2), keepdims=True)
    energy = (np.square(one) + np.square(other)).mean(axis=(1, 2)) + _LITTLE_CONTRAST  # (pairs, 3)
    similarity: NDArray[np.float32] = (2 * (one * other).mean(axis=(1, 2)) + _LITTLE_CONTRAST) / energy
    least: NDArray[np.float32] = similarity.min(axis=1)
    return least


def _contains(pairs: Rows, asked: Rows) -> NDArray[np.bool_]:
    width = 1 + max((int(rows[:, 1].max()) for rows in (pairs, asked) if len(rows)), default=0)
    is_known: NDArray[np.bool_] = np.isin(asked @ (width, 1), pairs @ (width, 1))
    return is_known
