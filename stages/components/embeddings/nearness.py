"""Measure how near embeddings computed in fewer bits come to those in fp32."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.log import log


def nearness(embeddings: NDArray[np.float32], exact: NDArray[np.float32], *, noun: str) -> dict[str, float]:
    """Compare embeddings with those in fp32: return the mean and least cosine, and the number of rows.

    A row that is the zero vector in both counts as 1.

    Args:
        embeddings: Embeddings computed in fewer bits.
        exact: The same in fp32.
        noun: What a row embeds, caption or image, for the name of their number.

    Shapes:
        embeddings, exact: (rows, dim), float32.
    """
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(exact, axis=1)
    products = np.einsum("rd,rd->r", embeddings, exact)
    both_zero = ~(embeddings.any(axis=1) | exact.any(axis=1))
    cosines = np.where(both_zero, 1.0, products / np.maximum(lengths, np.finfo(np.float32).tiny))
    return {
        "fp32_cosine_mean": float(cosines.mean()),
        "fp32_cosine_min": float(cosines.min()),
        f"fp32_cosine_{noun}s": float(len(cosines)),
    }


def tell_nearness(cosines: Mapping[str, float], *, model: str, precision: str, noun: str) -> None:
    """Log the result of `nearness`."""
    log.info(
        "the %s in %s: cosine to fp32 %.6f in the mean, %.6f at least, of %d %ss",
        model, precision, *cosines.values(), noun,
    )  # fmt: skip
