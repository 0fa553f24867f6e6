"""Make smooth masks of handwritten digits, at any height."""

from functools import cache, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "test"]

_MASTER_SCALE = 8
_WIDEST = 0.72  # of the height; a few very wide zeros and fives are narrowed to it


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # heavy to import

    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target


def instance_rows(split: Split) -> tuple[tuple[int, ...], ...]:
    """Return the rows of scikit-learn's ``load_digits`` that a split may draw, one tuple for each digit.

    Every fourth of the 1797 instances is for testing, at least 41 of each digit; no instance is in both splits.
    """
    _, targets = _digits()
    is_test = np.arange(len(targets)) % 4 == 3
    in_split = is_test if split == "test" else ~is_test
    return tuple(tuple(np.flatnonzero(in_split & (targets == digit)).tolist()) for digit in range(10))


@cache
def _master(row: int) -> Image.Image:
    """Enlarge one instance, sharpen its strokes and cut it to its ink."""
    padded = np.pad(_digits()[0][row], 1)
    side = padded.shape[0] * _MASTER_SCALE
    smooth = np.asarray(Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    ramp = np.clip((smooth - 0.26) / 0.42, 0, 1)
    ink = ramp * ramp * (3 - 2 * ramp)
    rows, columns = (np.flatnonzero((ink > 0.1).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(np.round(ink * 255).astype(np.uint8))


@cache
def glyph(row: int, height: int) -> NDArray[np.float32]:
    """Return one handwritten digit as a mask, 0 for paper and 1 for ink.

    Masks are cached, since a set of scenes draws each of them many times; do not write into one.

    Args:
        row: Row of ``load_digits``, from 0 to 1796.
        height: Height in pixels; the width follows.

    Shapes:
        returns: (height, width, 1), float32, from 0 to 1.
    """
    master = _master(row)
    width = max(1, round(height * min(_WIDEST, master.width / master.height)))
    resized = np.asarray(master.resize((width, height), Image.Resampling.BICUBIC))
    mask: NDArray[np.float32] = (resized[:, :, np.newaxis] / 255).astype(np.float32)
    mask.flags.writeable = False
    return mask
