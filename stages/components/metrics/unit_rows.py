"""Scale embeddings to unit rows, refuse rows that are not finite, and multiply in full float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.components.compute.precision import full_float32

STUDENT_REMEDY = "The student has probably diverged: distill it again with a smaller --lr."


TEACHER_REMEDY = "Check the teacher: it has to give a finite embedding for every caption."


@contextmanager
def exact_scores() -> Iterator[None]:
    """Run the block without gradients and in full float32, whatever matmul precision the caller trained with."""
    with full_float32(), torch.no_grad():
        yield


def unit_rows(embeddings: Tensor, *, name: str, remedy: str) -> Tensor:
    """Scale every row to unit length; a zero row stays zero, so that its cosine with anything is 0.

    Args:
        embeddings: Rows of any scale, even one whose square overflows float32.
        name: Name of the rows, at the beginning of an error: ``Image embeddings``.
        remedy: Advice to the user, for rows that are not finite.

    Raises:
        ProtoRKDError: a row holds NaN or infinity.

    Shapes:
        embeddings: (rows, dim), any float.
        returns: (rows, dim), float32.
    """
    if embeddings.ndim != 2:
        raise ValueError(f"{name} must have shape (rows, dim); got {tuple(embeddings.shape)}.")
    finite = embeddings.isfinite().all(dim=1)
    if not finite.all():
        broken = (~finite).nonzero().flatten()
        raise ProtoRKDError(
            f"{name} must be finite; got NaN or infinity in {len(broken)} of {len(finite)} rows, "
            f"the first of them row {int(broken[0])}. {remedy}"
        )
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    largest = wide.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
    return normalize((wide / largest).float(), dim=1)
