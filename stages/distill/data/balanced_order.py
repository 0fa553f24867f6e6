"""Draw examples of rare kinds as often as those of common ones: by the sizes of their captions' clusters."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.distill.data.targets import Targets
from stages.distill.objectives.parts.embeddings import unit_rows

_PURPOSE = 1  # of random numbers, beside the order of an epoch
_MOST_SCORES = 1 << 24  # of captions with prototypes, at once


@torch.no_grad()
def nearest_prototypes(targets: Targets, rows: Tensor, centroids: Tensor) -> NDArray[np.int64]:
    """Find the prototype that each caption is nearest to.

    Shapes:
        rows: (captions,), int64: their rows, on the CPU.
        centroids: (num_prototypes, dim), float32, unit rows, on the training device.
        returns: (captions,), int64.
    """
    parts = torch.split(rows, max(1, _MOST_SCORES // len(centroids)))
    return torch.cat([(unit_rows(targets.gather(part)) @ centroids.T).argmax(dim=1).cpu() for part in parts]).numpy()


def balanced_weights(clusters: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Weigh each example by the size of its cluster to the power of minus alpha; weights add up to 1.

    Args:
        clusters: Cluster of each example.
        alpha: 0 weighs all alike; with 1 every cluster is drawn as often as any other.

    Shapes:
        clusters: (examples,), int64, not negative.
        returns: the same.
    """
    sizes = np.bincount(clusters).astype(np.float64)
    weights: NDArray[np.float64] = sizes[clusters] ** -alpha
    weights /= weights.sum()
    return weights


def balanced_episodes(weights: NDArray[np.float64], size: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the examples of one epoch after the other, without end, each as often as its weight says.

    An example whose weight makes 2.3 draws of an epoch is drawn twice, or with a probability of 0.3 three times
    (systematic sampling over a random order), and its draws lie far apart. Each epoch is a function of the seed and
    its number, the same on any machine.

    Shapes:
        weights: (examples,), adding up to 1.
        yields: (size,), int64.
    """
    for epoch in itertools.count():
        generator = np.random.default_rng([seed, epoch, _PURPOSE])
        order = generator.permutation(len(weights))
        edges = np.cumsum(weights[order]) * size + generator.random()
        edges[-1] = size  # whatever rounding has made of it
        counts = np.diff(np.floor(edges).astype(np.int64).clip(max=size), prepend=0)
        drawn = np.repeat(order, counts)  # (size,)
        repeats = np.repeat(counts, counts)
        numbers = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)  # among draws of the same example
        places = (np.repeat(generator.random(len(weights)), counts) + numbers) / repeats
        yield drawn[np.argsort(places, kind="stable")]
