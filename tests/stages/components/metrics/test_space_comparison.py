"""Two spaces of other widths compared: against plain formulas, and where nothing is shared."""

import numpy as np
import torch
from torch.nn.functional import normalize

from stages.components.metrics.space_comparison import debiased_cka, neighbour_overlap

NUM = 40


def rows(dim: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(NUM, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def nearest(space: torch.Tensor, k: int) -> list[set[int]]:
    scores = (space @ space.T).numpy()
    np.fill_diagonal(scores, -2)
    return [set(np.argsort(-row)[:k].tolist()) for row in scores]


def test_neighbour_overlap__is_the_share_of_common_neighbours() -> None:
    first, second = rows(5, 0), rows(9, 1)
    pairs = zip(nearest(first, 4), nearest(second, 4), strict=True)
    expected = 100 * sum(len(one & two) for one, two in pairs) / (4 * NUM)
    assert neighbour_overlap(first, second, k=4) == np.float64(expected)
    assert neighbour_overlap(first, first, k=4) == 100


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased estimator, as Song et al., 2012, write it."""
    num, one = len(first), np.ones(len(first))
    first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    total = np.trace(first @ second) + one @ first @ one * (one @ second @ one) / ((num - 1) * (num - 2))
    return float((total - 2 / (num - 2) * (one @ first @ second @ one)) / (num * (num - 3)))


def test_debiased_cka__is_that_of_the_papers_formula() -> None:
    first, second = rows(5, 0).double(), rows(9, 1).double()
    mixed = torch.cat([first, 0.3 * second], dim=1)
    kernels = [(space @ space.T).numpy() for space in (first, mixed)]
    expected = hsic(*kernels) / np.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))
    assert np.isclose(debiased_cka(*map(torch.from_numpy, kernels)), expected, atol=1e-9)


def test_debiased_cka__is_one_for_a_turned_space_and_near_zero_for_unrelated_ones() -> None:
    first, second = rows(5, 0).double(), rows(9, 1).double()
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    turned = first @ turn
    assert np.isclose(debiased_cka(first @ first.T, turned @ turned.T), 1)
    assert abs(debiased_cka(first @ first.T, second @ second.T)) < 0.15
