"""Covariance and effective rank against plain formulas."""

import numpy as np
import torch

from stages.components.metrics.spectrum import covariance_of, effective_ranks


def test_covariance__is_that_of_numpy() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(covariance_of(rows), np.cov(rows.numpy().T, bias=True), atol=1e-6)


def test_effective_rank__is_the_exponential_of_the_entropy() -> None:
    spectra = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    share = np.array([0.75, 0.25])
    expected = [np.exp(-(share * np.log(share)).sum()), 3, 0]
    np.testing.assert_allclose(effective_ranks(spectra), expected)
