"""Predict captions from features by ridge regression in closed form: what the simplest head reaches, in seconds."""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 8192  # rows turned to float64 at a time
_STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # of the penalty, for each row fitted on


@dataclass(frozen=True)
class Ridge:
    """A linear map from features to captions.

    Args:
        penalty: Strength of the penalty for each row fitted on, chosen by generalised cross-validation.

    Shapes:
        weight: (feature_dim, dim), float32; feature_mean: (feature_dim,), float32; target_mean: (dim,), float32.
        spectrum: (feature_dim,), float64: eigenvalues of the covariance of the features.
    """

    weight: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    penalty: float
    spectrum: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Predict captions of features: (rows, feature_dim), float32, to (rows, dim), float32."""
        return (features - self.feature_mean) @ self.weight + self.target_mean


def fit_ridge(features: Tensor, targets: Tensor) -> Ridge:
    """Fit targets by (X'X + n p I)^-1 X'Y, with centred X and Y.

    The penalty p is the one of a few powers of ten with the least error by generalised cross-validation (Golub, Heath
    and Wahba, 1979), which needs no held-out rows: all of them follow from one eigendecomposition of X'X.

    Args:
        features: Standardised features, 2 rows or more.
        targets: Captions as unit rows.

    Shapes:
        features: (rows, feature_dim), float32; targets: (rows, dim), float32.
    """
    num = len(features)
    feature_mean, target_mean = (rows.mean(dim=0, dtype=torch.float64) for rows in (features, targets))
    gram = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    cross = torch.zeros(features.shape[1], targets.shape[1], dtype=torch.float64)
    total = 0.0
    for x, y in zip(torch.split(features, _BLOCK), torch.split(targets, _BLOCK), strict=True):
        centred, wanted = x.double() - feature_mean, y.double() - target_mean
        gram += centred.T @ centred
        cross += centred.T @ wanted
        total += float(wanted.square().sum())
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    rotated = vectors.T @ cross  # (feature_dim, dim)
    explained = rotated.square().sum(dim=1)

    def error(strength: float) -> float:
        shrunk = 1 / (values + num * strength)
        residual = total - float((explained * (2 * shrunk - values * shrunk.square())).sum())
        freedom = 1 + float((values * shrunk).sum())  # the mean is fitted, too
        return residual / max(1 - freedom / num, 1e-9) ** 2

    penalty = min(_STRENGTHS, key=error)
    weight = vectors @ (rotated / (values + num * penalty)[:, None])
    return Ridge(weight.float(), feature_mean.float(), target_mean.float(), penalty, values / num)
