"""Check that an export embeds as its teacher and student do, before it is delivered."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import ProtoRKDError

TOLERANCE = 1e-4
"""Largest difference in each number of an embedding of unit length."""

CAPTIONS = (
    "a red circle",
    "A man in a blue shirt rides a horse along the beach, and two dogs run beside him.",
    "three",
    "http://127.0.0.1:9/a-caption-is-always-text.jpg",
    "",
)
_SIZES = ((64, 48), (37, 91), (128, 128))


def sample_images() -> list[Image.Image]:
    """Make images of smooth colours and noise, the same in every run."""
    numbers = np.random.default_rng(0)
    images = []
    for height, width in _SIZES:
        ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
        pixels = ramp * numbers.random(3) + numbers.integers(0, 16, (height, width, 3))
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return images


def unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; zero rows stay."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = embeddings / np.maximum(lengths, 1e-12)
    return scaled


def require_near(embeddings: NDArray[np.float32], expected: NDArray[np.float32], *, what: str) -> float:
    """Compare embeddings number by number, and return the largest difference.

    Args:
        embeddings: Embeddings by the export.
        expected: Embeddings by teacher or student.
        what: Name of what is compared, for the message.

    Raises:
        ProtoRKDError: they differ by more than `TOLERANCE`, or in shape, or are not finite.
    """
    if embeddings.shape != expected.shape:
        raise ProtoRKDError(f"{what} must have the shape {expected.shape}; got {embeddings.shape}.")
    difference = float(np.abs(embeddings - expected).max())
    if not difference <= TOLERANCE:
        raise ProtoRKDError(
            f"{what} must be within {TOLERANCE:g} of the original's; got a difference of {difference:.2g}. Nothing was "
            "exported: leave this --format out, or report the backbone."
        )
    return difference


def require_same(embeddings: NDArray[np.float32], expected: NDArray[np.float32], *, what: str) -> None:
    """Refuse embeddings that differ in any bit.

    Args:
        embeddings: Embeddings by the export.
        expected: Embeddings by the bare teacher.
        what: Name of what is compared, for the message.

    Raises:
        ProtoRKDError: they differ.
    """
    if embeddings.shape != expected.shape or not np.array_equal(embeddings, expected):
        raise ProtoRKDError(
            f"{what} must be the bare teacher's, bit for bit; got others, of shape {embeddings.shape} for "
            f"{expected.shape}. Nothing was exported: report the teacher."
        )
