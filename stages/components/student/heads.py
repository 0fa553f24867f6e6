"""Heads on the features of a frozen backbone: features are standardised by the corpus, then mapped to embeddings."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import HeadConfig


class FeatureHead(nn.Module):
    """Standardise features by statistics of the corpus, then map them to embeddings.

    The statistics are buffers, so they lie among the weights. Until `set_statistics` they are 0 and 1.

    Attributes:
        noise: Standard deviation of the Gaussian noise that training adds to standardised features; 0 adds none.

    Args:
        layers: Maps standardised features to embeddings.
        feature_dim: Width of the features.

    Shapes:
        features: (batch, feature_dim), float.
        returns: (batch, embedding_dim), float.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, layers: nn.Module, *, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.layers = layers
        self.noise = 0.0

    def set_statistics(self, *, mean: Tensor, std: Tensor) -> None:
        """Take the statistics of the corpus; a feature that does not vary is only centred.

        Shapes:
            mean, std: (feature_dim,), float; std at least 0.
        """
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(std > 0, std, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return one embedding for each row of features."""
        standardised = (features.float() - self.feature_mean) / self.feature_std
        if self.training and self.noise:
            standardised = standardised + self.noise * torch.randn_like(standardised)
        embeddings: Tensor = self.layers(standardised)
        return embeddings


class GatedHead(nn.Module):
    """Multiply two projections of the normalised features, one of them through ReLU6, and project the product.

    The head of SAIL: Zhang et al., 2024, arXiv:2412.04616: W3 [ReLU6(W1 LN x) * (W2 LN x)].

    Args:
        feature_dim: Width of the features.
        width: Width of the product.
        embedding_dim: Width of the embeddings.
        dropout: Share of the product that training drops.
    """

    def __init__(self, feature_dim: int, width: int, embedding_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.gate = nn.Linear(feature_dim, width)
        self.value = nn.Linear(feature_dim, width)
        self.activation = nn.ReLU6()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, embedding_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return one embedding for each row of features: (batch, feature_dim) to (batch, embedding_dim)."""
        features = self.norm(features)
        product = self.activation(self.gate(features)) * self.value(features)  # (batch, width)
        embeddings: Tensor = self.project(self.dropout(product))
        return embeddings


class ResidualHead(nn.Module):
    """Add to the features what an MLP makes of them, and project the sum.

    Args:
        feature_dim: Width of the features.
        width: Width of the MLP's hidden layer.
        embedding_dim: Width of the embeddings.
        dropout: Share of the hidden units that training drops.
    """

    def __init__(self, feature_dim: int, width: int, embedding_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.mlp = _mlp(feature_dim, width, feature_dim, dropout=dropout)
        self.project = nn.Linear(feature_dim, embedding_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return one embedding for each row of features: (batch, feature_dim) to (batch, embedding_dim)."""
        embeddings: Tensor = self.project(features + self.mlp(features))
        return embeddings


def _mlp(feature_dim: int, width: int, embedding_dim: int, *, dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(feature_dim, width, bias=False),  # batch normalisation brings its own offset
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, embedding_dim),
    )


LINEAR = "linear"
_WITH_WIDTH: dict[str, Callable[..., nn.Module]] = {"mlp": _mlp, "gated": GatedHead, "residual": ResidualHead}


def build_feature_head(config: HeadConfig, *, feature_dim: int, embedding_dim: int) -> FeatureHead:
    """Make an untrained head on features, in train mode.

    Args:
        config: Kind of the head, its width and dropout.
        feature_dim: Width of the features.
        embedding_dim: Width of the embeddings, which is the teacher's.

    Raises:
        ProtoRKDError: there is no such head, or its width is missing or has no place.

    Example:
        >>> head = build_feature_head(HeadConfig("mlp", width=8), feature_dim=5, embedding_dim=3)
        >>> head(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """
    if config.kind != LINEAR and config.kind not in _WITH_WIDTH:
        known = ", ".join([LINEAR, *_WITH_WIDTH])
        raise ProtoRKDError(f"--head must be one of {known}; got {config.kind!r}.")
    if (config.kind == LINEAR) != (config.width == 0):
        rule = "be 0 for a linear head, which has no hidden layer" if config.kind == LINEAR else "be 1 or more"
        raise ProtoRKDError(f"--head-width must {rule}; got {config.width} for {config.kind}.")
    layers = (
        nn.Linear(feature_dim, embedding_dim)
        if config.kind == LINEAR
        else _WITH_WIDTH[config.kind](feature_dim, config.width, embedding_dim, dropout=config.dropout)
    )
    return FeatureHead(layers, feature_dim=feature_dim)
