"""Extend vectors by one number, so that their inner product is the calibrated score."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.calibration import MIXED, Calibration, QueryBank

Vectors = NDArray[np.float32]
TEXT, IMAGE = "text", "picture"
"""Kinds of queries."""

_MAX_SCORES = 1 << 24  # computed at a time: 64 MB


def nearness_to_bank(images: Vectors, bank: QueryBank) -> Vectors:
    """Compute how near images are to the queries of a bank: temperature * log mean exp(cosine / temperature).

    Shapes:
        images: (images, dim), float32, of unit length.
        returns: (images,), float32.
    """
    nearness = np.empty(len(images), np.float32)
    step = max(1, _MAX_SCORES // len(bank.captions))
    for start in range(0, len(images), step):
        scores = (images[start : start + step] @ bank.captions.T).astype(np.float64) / bank.temperature
        largest = scores.max(axis=1)  # so that nothing overflows
        means = np.exp(scores - largest[:, None]).mean(axis=1)
        nearness[start : start + step] = bank.temperature * (largest + np.log(means))
    return nearness


def extend_images(images: Vectors, calibration: Calibration) -> Vectors:
    """Write a calibration into the vectors of images: [v, -nearness to the bank], or [slope * v, offset].

    Rows of zeros, of images that could not be read, stay zeros.

    Shapes:
        images: (images, dim), float32, of unit length.
        returns: (images, dim + 1), float32.
    """
    if isinstance(calibration, QueryBank):
        extended = np.column_stack([images, -nearness_to_bank(images, calibration)])
    else:
        scores = calibration.map_images(TEXT)
        extended = np.column_stack([images * np.float32(scores.slope), np.full(len(images), scores.offset, np.float32)])
    extended[~images.any(axis=1)] = 0
    return extended


def extend_captions(captions: Vectors) -> Vectors:
    """Write no calibration into the vectors of captions that are searched: [t, 0].

    Shapes:
        captions: (captions, dim), float32, of unit length.
        returns: (captions, dim + 1), float32, the same numbers and a zero.
    """
    return np.column_stack([captions, np.zeros(len(captions), np.float32)])


def extend_queries(queries: Vectors, *, kind: str) -> Vectors:
    """Extend queries for rows that are extended: words by 1, [q, 1]; images by 0, which leaves their cosines.

    Args:
        queries: Vectors of unit length.
        kind: ``text`` or ``picture``.

    Shapes:
        queries: (queries, dim), float32.
        returns: (queries, dim + 1), float32.
    """
    return np.column_stack([queries, np.full(len(queries), float(kind == TEXT), np.float32)])


def plain_images(extended: Vectors, kind: str) -> Vectors:
    """Take the calibration out of the vectors of images again: unit length, without the last number.

    Args:
        extended: Rows other than zeros, (images, dim + 1), as `extend_images` gives them.
        kind: ``mixed``, whose rows are scaled, or ``query-bank``.
    """
    images = extended[:, :-1]
    if kind != MIXED:
        return images
    plain: Vectors = images / np.linalg.norm(images, axis=1, keepdims=True)
    return plain
