"""Time k-means over as many captions as Conceptual Captions has: a fifth first, and all where that fits the time."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import peak_memory
from stages.prototypes.kmeans import Fit, fit_prototypes
from stages.prototypes.options import PrototypesParams

_ROWS_AT_A_TIME = 100_000
_SPREAD = 0.04  # deviation of each element from its row's centre; with 768 elements rows are about 1.1 long
_PART, _PART_ITERATIONS = 5, (1, 4)
_WORTH_TRYING_S = 75.0


def prototypes(setup: Setup) -> Iterator[dict[str, Any]]:
    """Fit a part with few iterations, estimate the time of the whole, and fit the whole if that is not long."""
    num, iterations = setup.sizes.num_rows, PrototypesParams().iterations
    rows = _rows(setup, num)
    yield {"rows": num, "dim": setup.sizes.dim, "prototypes": setup.sizes.num_prototypes, "iterations": iterations}
    some = rows[: num // _PART]
    _fit(setup, some, iterations=1)  # loads kernels
    times = {number: _fit(setup, some, iterations=number)[1] for number in _PART_ITERATIONS}
    yield {"part": {"rows": len(some), **{f"seconds_of_{number}": seconds for number, seconds in times.items()}}}
    estimate = extrapolated(times, part=_PART, iterations=iterations)
    yield {"whole": {"seconds": estimate, "is_estimate": True}}
    if estimate < _WORTH_TRYING_S:
        fit, seconds = _fit(setup, rows, iterations=iterations)
        yield {
            "whole": {
                "seconds": seconds,
                "is_estimate": False,
                "iterations": len(fit.mean_cosines),
                "mean_cosine": fit.mean_cosines[-1],
                **peak_memory(),
            }
        }


def extrapolated(times: Mapping[int, float], *, part: int, iterations: int) -> float:
    """Estimate the seconds of a whole fit: iterations grow; the start, on a few rows per prototype, does not.

    Args:
        times: Seconds of two fits of a part, by their iterations.
        part: Ratio of the whole's rows to the part's.
        iterations: Iterations of the whole fit.
    """
    (few, least), (many, most) = times.items()
    each = (most - least) / (many - few)
    return least - few * each + part * iterations * each


def _fit(setup: Setup, rows: NDArray[np.float32], *, iterations: int) -> tuple[Fit, float]:
    start = time.monotonic()
    fit = fit_prototypes(
        rows,
        num_prototypes=setup.sizes.num_prototypes,
        iterations=iterations,
        restarts=1,
        seed=0,
        device=setup.device,
    )
    return fit, time.monotonic() - start


def _rows(setup: Setup, num: int) -> NDArray[np.float32]:
    """Make unit rows around as many centres as there will be prototypes."""
    device, dim, num_centres = setup.device, setup.sizes.dim, setup.sizes.num_prototypes
    torch.manual_seed(0)
    centres = normalize(torch.randn(num_centres, dim, device=device), dim=1)
    rows = torch.empty(num, dim)
    for part in torch.split(rows, _ROWS_AT_A_TIME):
        chosen = centres[torch.randint(num_centres, (len(part),), device=device)]
        part.copy_(normalize(chosen + _SPREAD * torch.randn_like(chosen), dim=1))
    return rows.numpy()
