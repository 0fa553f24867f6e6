"""Convert embeddings to the dtype in which they are stored, and require that they are finite."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError


def store_as(
    embeddings: NDArray[np.float32],
    dtype: "np.dtype[Any]",
    *,
    model: str,
    noun: str,
    name: Callable[[int], str],
    flag: str = "--embedding-dtype",
) -> NDArray[Any]:
    """Convert embeddings to another dtype.

    Args:
        embeddings: Embeddings of a model.
        dtype: NumPy's float16 or float32.
        model: Teacher, student or backbone, for the message.
        noun: What a row embeds, caption or image, for the message.
        name: Names what a row embeds, by the row's number, for the message.
        flag: Option that chooses the dtype, for the message.

    Raises:
        ProtoRKDError: a number is not finite or too large for the dtype, or a whole row is too small for it.

    Shapes:
        embeddings: (rows, dim).
        returns: (rows, dim), the dtype.
    """
    with np.errstate(over="ignore"):
        stored = embeddings.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if not bad.size:
        lost = np.flatnonzero(embeddings.any(axis=1) & ~stored.any(axis=1))
        if lost.size:
            raise ProtoRKDError(
                f"{flag} must hold the {model}'s numbers; {dtype} makes zeros of all those of {lost.size} "
                f"{noun}s, first {name(int(lost[0]))}. Use {flag} float32."
            )
        return stored
    first = name(int(bad[0]))
    if np.isfinite(embeddings[bad[0]]).all():
        largest = np.abs(embeddings[bad]).max()
        raise ProtoRKDError(
            f"{flag} must hold the {model}'s numbers; {dtype} cannot hold {largest:.0f} ({noun} {first}). "
            f"Use {flag} float32."
        )
    raise ProtoRKDError(
        f"The {model} must give finite numbers; it gave NaN or infinity for {bad.size} {noun}s, first {first}. "
        f"Look at the {model}'s weights."
    )
