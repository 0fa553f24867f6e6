"""Spherical k-means: unit centroids that maximise the mean cosine of rows with their nearest one."""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.ranking import exact_scores

_MAX_SCORES = 1 << 24  # rows of a block times centroids
_START_ROUNDS = 16
_SPLIT = 1 / 1024  # how far the halves of a split cluster part, as in faiss


@dataclass(frozen=True)
class Fit:
    """What k-means found.

    Args:
        centroids: (num_prototypes, dim), float32, of unit length.
        mean_cosines: of the rows with their nearest centroid, at the beginning of each iteration.
        engine: what computed: faiss-cpu, faiss-gpu or torch.
    """

    centroids: NDArray[np.float32]
    mean_cosines: tuple[float, ...]
    engine: str


def fit_prototypes(
    rows: NDArray[np.float32],
    *,
    num_prototypes: int,
    iterations: int,
    restarts: int,
    seed: int,
    method: str,
    device: torch.device,
) -> Fit:
    """Cluster unit rows by direction. The same rows and seed give the same centroids.

    Dhillon and Modha, Concept Decompositions for Large Sparse Text Data Using Clustering, 2001.

    Args:
        rows: all of them are fitted on.
        num_prototypes: at most one a row.
        iterations: at most so many.
        restarts: fits from different starts, of which the best is kept.
        seed: of the starts, below 2**31.
        method: "faiss", "torch", or "auto": faiss where it imports.
        device: where it runs; faiss uses the same GPU.

    Raises:
        ProtoRKDError: faiss is asked for and cannot be imported.

    Shapes:
        rows: (rows, dim), float32, of unit length.
    """
    if not 1 <= num_prototypes <= len(rows):
        raise ValueError(f"num_prototypes must be from 1 to {len(rows)}; got {num_prototypes}.")
    faiss = None if method == "torch" else _import_faiss(required=method == "faiss")
    arguments: dict[str, int] = {"iterations": iterations, "restarts": restarts, "seed": seed}
    if faiss is not None and num_prototypes < len(rows):  # with a row for each it does not iterate, nor measure
        return _fit_by_faiss(faiss, rows, num_prototypes, device=device, **arguments)
    return _fit_by_torch(torch.from_numpy(rows), num_prototypes, device=device, **arguments)


def assign(
    rows: NDArray[np.float32], centroids: NDArray[np.float32], *, device: torch.device
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find each row's nearest centroid, and its cosine with it.

    Shapes:
        rows: (rows, dim), float32, of unit length; centroids: (num_prototypes, dim), float32, of unit length.
        returns: (rows,), int32, and (rows,), float32, from -1 to 1.
    """
    with exact_scores():
        cosines, nearest = _nearest(torch.from_numpy(rows), torch.from_numpy(centroids).to(device))
    return nearest.int().numpy(), cosines.clamp(-1, 1).numpy()


def _import_faiss(*, required: bool) -> Any:
    """Return the module, or None where there is none and none is required."""
    try:
        import faiss
        from faiss import Kmeans  # noqa: F401 - what is left of a half-removed faiss imports, and is empty
    except (ImportError, RuntimeError) as error:
        if required:
            raise ProtoRKDError(
                f"--method faiss must find faiss; {error}. Install faiss-gpu or faiss-cpu, one of them alone, or use "
                "--method torch."
            ) from error
        return None
    return faiss


def _fit_by_faiss(
    faiss: Any,
    rows: NDArray[np.float32],
    num_prototypes: int,
    *,
    iterations: int,
    restarts: int,
    seed: int,
    device: torch.device,
) -> Fit:
    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_prototypes,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # its default draws 256 rows a centroid and drops the others
    )
    on_gpu = device.type == "cuda" and faiss.get_num_gpus() > 0
    if on_gpu:
        resources = faiss.StandardGpuResources()
        kmeans.index = faiss.index_cpu_to_gpu(resources, device.index or 0, kmeans.index)
    kmeans.train(rows)
    centroids = torch.from_numpy(kmeans.centroids.copy())
    return Fit(
        centroids=_unit(centroids, instead=torch.from_numpy(rows[:num_prototypes])).numpy(),
        mean_cosines=tuple(float(total) / len(rows) for total in kmeans.obj),
        engine="faiss-gpu" if on_gpu else "faiss-cpu",
    )


def _fit_by_torch(
    rows: Tensor, num_prototypes: int, *, iterations: int, restarts: int, seed: int, device: torch.device
) -> Fit:
    generator = torch.Generator().manual_seed(seed)
    with exact_scores():
        fits = (_fit_once(rows, num_prototypes, iterations, generator, device) for _ in range(restarts))
        return max(fits, key=lambda fit: fit.mean_cosines[-1])


def _fit_once(
    rows: Tensor, num_prototypes: int, iterations: int, generator: torch.Generator, device: torch.device
) -> Fit:
    centroids = _start(rows, num_prototypes, generator, device)
    mean_cosines: list[float] = []
    for _ in range(iterations):
        cosines, nearest = _nearest(rows, centroids.to(device))
        mean_cosines.append(float(cosines.double().mean()))
        updated = _update(rows, nearest, centroids)
        if torch.equal(updated, centroids):
            break
        centroids = updated
    return Fit(centroids=centroids.numpy(), mean_cosines=tuple(mean_cosines), engine="torch")


def _start(rows: Tensor, num_prototypes: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw distinct rows, in a few rounds, the likelier the further they are from what was drawn before.

    After k-means|| (Bahmani et al., 2012, arXiv:1203.6402): up to 16 prototypes this is k-means++, and for any number
    it costs one iteration.
    """
    gaps = torch.ones(len(rows))  # 1 - cosine with the nearest row drawn so far
    is_drawn = torch.zeros(len(rows), dtype=torch.bool)
    drawn = []
    for share in torch.arange(num_prototypes).tensor_split(min(num_prototypes, _START_ROUNDS)):
        # The largest weight / exponential: a draw without replacement; rows without weight come last, drawn ones never.
        keys = gaps.clamp_min(1e-12) / torch.empty(len(rows)).exponential_(generator=generator)
        drawn.append(keys.masked_fill(is_drawn, -1).topk(len(share)).indices)
        is_drawn[drawn[-1]] = True
        cosines, _ = _nearest(rows, rows[drawn[-1]].to(device))
        gaps = torch.minimum(gaps, (1 - cosines).clamp_min(0))
    return rows[torch.cat(drawn)]


def _nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine with the nearest centroid and which that is, (rows,) each, on the CPU; never all scores at once."""
    blocks = torch.split(rows, max(1, _MAX_SCORES // len(centroids)))
    found = [(block.to(centroids.device) @ centroids.T).max(dim=1) for block in blocks]
    return torch.cat([best.values.cpu() for best in found]), torch.cat([best.indices.cpu() for best in found])


def _update(rows: Tensor, nearest: Tensor, centroids: Tensor) -> Tensor:
    """Turn each centroid into the direction of its rows' sum; empty ones take half of the largest clusters.

    On the CPU, where sums come out the same every time.
    """
    sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
    updated = _unit(sums, instead=centroids)
    sizes = nearest.bincount(minlength=len(centroids)).tolist()
    signs = 1 - 2 * (torch.arange(rows.shape[1]) % 2).to(rows.dtype)  # one half moves there, the other back
    heap = [(-size, number) for number, size in enumerate(sizes) if size]  # the largest first
    heapq.heapify(heap)
    for empty in [number for number, size in enumerate(sizes) if not size]:
        size, donor = heap[0]
        whole = updated[donor].clone()
        updated[empty] = normalize(whole * (1 + _SPLIT * signs), dim=0)
        updated[donor] = normalize(whole * (1 - _SPLIT * signs), dim=0)
        heapq.heapreplace(heap, (size - size // 2, donor))
        heapq.heappush(heap, (size // 2, empty))
    return updated


def _unit(sums: Tensor, *, instead: Tensor) -> Tensor:
    """Scale rows to unit length; rows that cancel out have no direction, and ``instead`` gives them one."""
    lengths = sums.norm(dim=1, keepdim=True)
    return torch.where(lengths > 1e-6, sums / lengths.clamp_min(1e-6), instead)
