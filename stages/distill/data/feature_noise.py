"""What training does to cached features in the place of augmentation: noise, and mixing of pairs."""

import numpy as np
import torch
from torch import Tensor

from stages.components.compute.device import send


class FeatureNoise:
    """Turn a batch of features into the head's input: add Gaussian noise to them.

    Numbers come from torch's generator, as dropout's do, which `seed_step` makes a function of seed, step and rank.

    Args:
        std: Standard deviation of the noise on each feature; 0 everywhere draws none.

    Shapes:
        std: (feature_dim,), float32, on the device.
    """

    def __init__(self, std: Tensor) -> None:
        self._std = std if std.any() else None

    def __call__(self, features: Tensor, _seeds: Tensor, _sizes: Tensor) -> Tensor:
        """Add noise: (batch, feature_dim), float32, to the same; the other arguments are of images."""
        if self._std is None:
            return features
        return torch.addcmul(features, torch.randn_like(features), self._std)


class FeatureMixup:
    """Mix the rows of a batch with one another, features and targets by the same shares.

    FuseMix: Vouitsis et al., 2023, arXiv:2312.10144. Each pair has a share of its own, drawn from Beta(alpha, alpha)
    and at least a half, so that a mixed pair stays nearer to its own caption and label than to the other's; the other
    is drawn from the same part of the batch. Draws are functions of the seed, the epoch and the first example.

    Args:
        alpha: Above 0; small ones mix little.
        seed: Seed of the draws.
    """

    def __init__(self, alpha: float, *, seed: int) -> None:
        self._alpha = alpha
        self._seed = seed

    def __call__(self, values: Tensor, examples: Tensor, epoch: int) -> Tensor:
        """Mix rows.

        Args:
            values: Features, or targets.
            examples: Examples that the rows belong to.
            epoch: Epoch, from 0.

        Shapes:
            values: (batch, any), float32, on the training device.
            examples: (batch,), int64, on the CPU, 1 or more.
            returns: as values.
        """
        generator = np.random.default_rng([self._seed, epoch, int(examples[0])])
        others = torch.from_numpy(generator.permutation(len(examples)))
        draws = generator.beta(self._alpha, self._alpha, len(examples))
        shares = torch.from_numpy(np.minimum(draws, 1 - draws).astype(np.float32))  # of the others
        mixed: Tensor = values.lerp(values[send(others, values.device)], send(shares, values.device)[:, None])
        return mixed
