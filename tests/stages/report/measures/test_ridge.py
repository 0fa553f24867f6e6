"""Ridge regression: scikit-learn's solution, and a penalty that follows from the noise."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from stages.report.measures import ridge
from stages.report.measures.ridge import fit_ridge


def some_pairs(num: int, *, noise: float, dim: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num, dim, generator=generator)
    targets = features @ torch.randn(dim, 5, generator=generator) + 3
    return features, targets + noise * torch.randn(num, 5, generator=generator)


@pytest.mark.parametrize("num", [200, 8])
def test_ridge__is_that_of_scikit_learn(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "_BLOCK", 37)
    features, targets = some_pairs(num, noise=1)
    found = fit_ridge(features, targets)
    expected = SklearnRidge(alpha=num * found.penalty).fit(features.numpy(), targets.numpy()).predict(features.numpy())
    np.testing.assert_allclose(found.predict(features), expected, atol=1e-4)


def test_spectrum__is_that_of_the_features() -> None:
    features, targets = some_pairs(50, noise=1)
    expected = np.linalg.eigvalsh(np.cov(features.numpy().T.astype(np.float64), bias=True))
    np.testing.assert_allclose(fit_ridge(features, targets).spectrum, expected, rtol=1e-6)


def test_penalty__has_the_least_error_by_cross_validation() -> None:
    features, targets = some_pairs(60, noise=4)

    def error(strength: float) -> float:
        """Generalised cross-validation, written out."""
        centred = np.hstack([features.numpy() - features.numpy().mean(axis=0)]).astype(np.float64)
        hat = centred @ np.linalg.solve(centred.T @ centred + 60 * strength * np.eye(12), centred.T) + 1 / 60
        residual = targets.numpy() - hat @ targets.numpy()
        return float((residual**2).sum() / (1 - np.trace(hat) / 60) ** 2)

    found = fit_ridge(features, targets).penalty
    assert found == min((10.0**power for power in range(-5, 3)), key=error)
    assert fit_ridge(*some_pairs(60, noise=0)).penalty < found
