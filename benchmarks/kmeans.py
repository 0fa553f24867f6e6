"""Time the k-means of `prototypes` against scikit-learn's at equal quality, and against the matrix products alone."""

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import Comparison, Limit, compare_time
from benchmarks.settings import Settings
from stages.components.compute.precision import choose_precision
from stages.prototypes.kmeans import fit_prototypes

CPU = torch.device("cpu")
OUR_ITERATIONS, THEIR_ITERATIONS = 10, 20
TOLERANCE = 1e-3  # of the mean cosine: seeds differ by more


def compare(settings: Settings) -> list[Comparison]:
    """Compare at the size of 20,000 captions of MiniLM."""
    return compare_kmeans(num_rows=20_000, dim=384, num_prototypes=256, num_pairs=settings.num_pairs)


def compare_kmeans(*, num_rows: int, dim: int, num_prototypes: int, num_pairs: int) -> list[Comparison]:
    """Compare the time of whole fits, after a check that ours reaches their mean cosine.

    Args:
        num_rows: Unit rows to cluster.
        dim: Width of the rows.
        num_prototypes: Clusters.
        num_pairs: Timed pairs of calls.
    """
    rows = text_like_rows(num_rows, dim)

    def ours() -> NDArray[np.float32]:
        return fit_prototypes(
            rows,
            num_prototypes=num_prototypes,
            iterations=OUR_ITERATIONS,
            restarts=1,
            seed=0,
            device=CPU,
        ).centroids

    def scikit_learn() -> NDArray[np.float32]:
        fit = KMeans(num_prototypes, n_init=1, max_iter=THEIR_ITERATIONS, random_state=0).fit(rows)
        return np.asarray(fit.cluster_centers_)

    def faiss_kmeans() -> NDArray[np.float32]:
        kmeans = faiss.Kmeans(dim, num_prototypes, niter=THEIR_ITERATIONS, seed=0, spherical=True)
        kmeans.cp.max_points_per_centroid = num_rows  # its default draws 256 rows a centroid
        kmeans.train(rows)
        return np.asarray(kmeans.centroids)

    def products() -> Tensor:
        return torch.stack([functional.linear(block, weight).amax() for block in blocks])

    dtype = torch.bfloat16 if choose_precision("auto", CPU) == "bf16" else torch.float32
    blocks = [block for block in torch.split(torch.from_numpy(rows).to(dtype), 16384) for _ in range(OUR_ITERATIONS)]
    weight = torch.from_numpy(rows[:num_prototypes]).to(dtype)
    reached = mean_cosine(rows, ours())
    comparisons = []
    for name, theirs, bar in (("scikit-learn", scikit_learn, 10.0), ("faiss", faiss_kmeans, None)):
        cosine = mean_cosine(rows, theirs())
        if reached < cosine - TOLERANCE:
            raise AssertionError(f"The fit must be as good as that of {name}, {cosine:.4f}; got {reached:.4f}.")
        comparisons.append(
            compare_time(
                f"k-means, {num_rows:,} x {dim} to {num_prototypes}, mean cosine {reached:.4f} of {OUR_ITERATIONS} "
                f"iterations against {cosine:.4f} of {THEIR_ITERATIONS}",
                baseline_name=name,
                baseline=theirs,
                ours=ours,
                num_pairs=num_pairs,
                bar=bar,
                limit=Limit(f"the products alone, {dtype}", products),
            )
        )
    return comparisons


def mean_cosine(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    """Average the cosine of rows with their nearest direction, which spherical k-means maximises."""
    directions = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return float((rows @ directions.T).max(axis=1).mean())


def text_like_rows(num: int, dim: int) -> NDArray[np.float32]:
    """Make directions with a common mean, few leading dimensions, and topics of very different sizes."""
    numbers = np.random.default_rng(0)
    scales = 1 / np.sqrt(np.arange(1, dim + 1))
    topics = numbers.normal(size=(2000, dim)) * scales
    chosen = np.minimum(numbers.zipf(1.3, size=num), len(topics)) - 1
    rows = topics[chosen] + 0.8 * scales * numbers.normal(size=(num, dim)) + 0.05
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
