"""Spherical k-means: unit centroids that maximise the mean cosine of rows with their nearest one."""

import heapq
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from stages.components.compute.device_table import DeviceTable, has_room
from stages.components.compute.precision import choose_precision
from stages.components.metrics.unit_rows import exact_scores
from stages.prototypes.device_rows import DeviceRows
from stages.prototypes.rows import HostRows, Rows

_START_ROUNDS = 16
_START_ROWS = 8  # for each prototype, from which the start is drawn
_SPLIT = 1 / 1024  # how far the halves of a split cluster move apart, as in faiss


@dataclass(frozen=True)
class Fit:
    """The result of k-means.

    Args:
        centroids: Centroids of unit length, (num_prototypes, dim), float32.
        mean_cosines: Mean cosine of the rows with their nearest centroid, at the beginning of each iteration.
    """

    centroids: NDArray[np.float32]
    mean_cosines: tuple[float, ...]


def fit_prototypes(
    rows: NDArray[np.float32],
    *,
    num_prototypes: int,
    iterations: int,
    restarts: int,
    seed: int,
    device: torch.device,
    precision: str = "auto",
) -> Fit:
    """Cluster unit rows by direction; the same rows and seed give the same centroids.

    Dhillon and Modha, Concept Decompositions for Large Sparse Text Data Using Clustering, 2001. This goes
    further than Lloyd's iterations: it moves each centroid past its mean, in the direction in which the mean moved
    (`_ahead`), and reaches in ten iterations what Lloyd's reach in more than twenty.

    Args:
        rows: Rows to fit on.
        num_prototypes: Number of clusters, at most one for each row.
        iterations: Largest number of iterations.
        restarts: Number of fits from different starts, of which the best is kept.
        seed: Seed of the starts, below 2**31.
        device: Device of the computation.
        precision: Precision of the search for nearest centroids: fp32, bf16, or "auto" (bf16 if the device has it).

    Shapes:
        rows: (rows, dim), float32, of unit length.
    """
    if not 1 <= num_prototypes <= len(rows):
        raise ValueError(f"num_prototypes must be from 1 to {len(rows)}; got {num_prototypes}.")
    if num_prototypes == len(rows):
        return Fit(centroids=rows.copy(), mean_cosines=(1.0,))
    dtype = torch.bfloat16 if choose_precision(precision, device) == "bf16" else torch.float32
    unit = _rows_on(torch.from_numpy(rows), device, dtype, is_resident=has_room(rows.nbytes, device))
    return _fit_best(unit, num_prototypes, iterations=iterations, restarts=restarts, seed=seed)


def assign(
    rows: NDArray[np.float32], centroids: NDArray[np.float32], *, device: torch.device
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find each row's nearest centroid, and its cosine with it.

    Shapes:
        rows: (rows, dim), float32, of unit length; centroids: (num_prototypes, dim), float32, of unit length.
        returns: (rows,), int32, and (rows,), float32, from -1 to 1.
    """
    with exact_scores():
        unit = _rows_on(torch.from_numpy(rows), device, torch.float32, is_resident=False)  # one pass: no need to stay
        cosines, nearest = unit.nearest(torch.from_numpy(centroids))
    return nearest.int().cpu().numpy(), cosines.clamp(-1, 1).cpu().numpy()


def _rows_on(rows: Tensor, device: torch.device, dtype: torch.dtype, *, is_resident: bool) -> Rows:
    if device.type != "cuda":
        return HostRows.of(rows, device, dtype)
    return DeviceRows.of(DeviceTable.of(rows, device, is_resident=is_resident), dtype)


def _fit_best(rows: Rows, num_prototypes: int, *, iterations: int, restarts: int, seed: int) -> Fit:
    generator = torch.Generator().manual_seed(seed)
    with exact_scores():
        fits = (_fit_once(rows, num_prototypes, iterations, generator) for _ in range(restarts))
        return max(fits, key=lambda fit: fit.mean_cosines[-1])


def _fit_once(rows: Rows, num_prototypes: int, iterations: int, generator: torch.Generator) -> Fit:
    means = centroids = _start(rows, num_prototypes, generator)
    mean_cosines: list[float] = []
    for _ in range(iterations):
        sums, sizes = rows.sums(centroids)
        mean_cosines.append(float((sums.double() * centroids).sum() / len(rows)))
        updated, is_split = _update(sums, sizes, means)
        if torch.equal(updated, centroids):
            break
        centroids = _ahead(updated, means, is_split)
        means = updated
    return Fit(centroids=means.cpu().numpy(), mean_cosines=tuple(mean_cosines))


def _start(rows: Rows, num_prototypes: int, generator: torch.Generator) -> Tensor:
    """Draw distinct rows in a few rounds, with probabilities that grow with the distance from earlier draws.

    After k-means|| (Bahmani et al., 2012, arXiv:1203.6402), among a few rows for each prototype: up to 16 prototypes
    this is k-means++, and for any number it costs less than one iteration.
    """
    # Drawn on the CPU, so that all devices draw the same.
    some = rows.some(torch.randperm(len(rows), generator=generator)[: _START_ROWS * num_prototypes])
    gaps = torch.ones(len(some))  # 1 - cosine with the nearest row drawn so far
    is_drawn = torch.zeros(len(some), dtype=torch.bool)
    drawn = []
    for share in torch.arange(num_prototypes).tensor_split(min(num_prototypes, _START_ROUNDS)):
        # The largest weight / exponential: a draw without replacement; rows without weight come last, drawn ones never.
        keys = gaps.clamp_min(1e-12) / torch.empty(len(some)).exponential_(generator=generator)
        drawn.append(keys.masked_fill(is_drawn, -1).topk(len(share)).indices)
        is_drawn[drawn[-1]] = True
        cosines, _ = some.nearest(some.take(drawn[-1]))
        gaps = torch.minimum(gaps, (1 - cosines.cpu()).clamp_min(0))
    return some.take(torch.cat(drawn))


def _update(sums: Tensor, sizes: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Move each centroid to the direction of its rows' sum; empty ones take half of the largest clusters.

    Shapes:
        returns: the new means, (num_prototypes, dim), and whether each is a half, (num_prototypes,), bool.
    """
    updated = _unit(sums, instead=means)
    is_split = torch.zeros(len(means), dtype=torch.bool, device=means.device)
    # The halves move in opposite directions.
    signs = 1 - 2 * (torch.arange(means.shape[1], device=means.device) % 2).to(means.dtype)
    counts = sizes.tolist()
    heap = [(-size, number) for number, size in enumerate(counts) if size]  # the largest first
    heapq.heapify(heap)
    for empty in [number for number, size in enumerate(counts) if not size]:
        size, donor = heap[0]
        whole = updated[donor].clone()
        updated[empty] = normalize(whole * (1 + _SPLIT * signs), dim=0)
        updated[donor] = normalize(whole * (1 - _SPLIT * signs), dim=0)
        is_split[empty] = is_split[donor] = True
        heapq.heapreplace(heap, (size - size // 2, donor))
        heapq.heappush(heap, (size // 2, empty))
    return updated, is_split


def _ahead(means: Tensor, before: Tensor, is_split: Tensor) -> Tensor:
    """Move the means once more as they just moved; halves of a cluster stay.

    A centroid pulls in rows, and these pull its mean further: Lloyd's iteration makes many small steps in one way.
    Near a minimum it is a linear map with eigenvalues r from 0 to 1, and this step makes each of them sqrt(r) in
    magnitude, which is still below 1; a mean whose rows stay the same does not move.
    """
    stays = is_split | (means == before).all(dim=1)
    return torch.where(stays[:, None], means, normalize(2 * means - before, dim=1))


def _unit(sums: Tensor, *, instead: Tensor) -> Tensor:
    """Scale rows to unit length; rows without a direction, because they cancel out, are taken from ``instead``."""
    lengths = sums.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1e-6, sums / lengths.clamp_min(1e-6), instead)
