"""Draw the seeds of views from what an image is, so that the same views are made again wherever it stands."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from stages.components.compute.keyed_random import keyed_numbers
from stages.components.embeddings.distinct_images import Distinct
from stages.components.loading.view_images import PLAIN

Rows = NDArray[np.int64]

_KEY_DIGITS = 15  # of a digest in hexadecimal: what fits an int64


def seed_rows(distinct: Distinct, rows: Rows, *, views: int, seed: int) -> Rows:
    """Compute the seed of each row's augmentation, from the bytes of its image, or its path where they are unknown.

    Shapes:
        rows: (rows,), int64.
        returns: the same; `PLAIN` for views that are not augmented.
    """
    view = rows % views
    keys = np.array([_image_key(distinct, int(row)) for row in rows // views], np.int64)
    return np.where(view == 0, PLAIN, keyed_numbers([seed], keys ^ view))


def _image_key(distinct: Distinct, row: int) -> int:
    digest = distinct.digests[int(distinct.firsts[row])]
    return int((digest or hashlib.sha256(distinct.path(row).encode()).hexdigest())[:_KEY_DIGITS], 16)
