"""Pool a transformer's tokens to features."""

from typing import Any

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError


def pool_tokens(tokens: Tensor, pooling: str, *, num_prefix: int) -> Tensor:
    """Pool tokens: the class token, the mean over patches, or both side by side.

    Args:
        tokens: Tokens, of which the first is the class token where there is one.
        pooling: ``cls``, ``mean`` or ``cls+mean``.
        num_prefix: Number of tokens before the patches: class token, distillation token and registers.

    Shapes:
        tokens: (batch, num_prefix + patches, dim), float.
        returns: (batch, dim), or (batch, 2 * dim) for ``cls+mean``.
    """
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: tokens[:, num_prefix:].mean(dim=1)}
    return torch.cat([parts[part]() for part in pooling.split("+")], dim=1)


def check_pooling(pooling: str, *, name: str, has_tokens: bool, has_cls: bool) -> None:
    """Refuse a pooling of tokens that a backbone does not have.

    Raises:
        ProtoRKDError: it has no tokens, or no class token.
    """
    if pooling == "native":
        return
    if not has_tokens:
        raise ProtoRKDError(f"--pooling must be native for {name}, which has no tokens to pool; got {pooling}.")
    if "cls" in pooling and not has_cls:
        raise ProtoRKDError(f"--pooling must be native or mean for {name}, which has no class token; got {pooling}.")


class PooledTokens(nn.Module):
    """A model of timm whose tokens are pooled in another way than its own.

    Args:
        model: Model with ``forward_features`` that gives tokens.
        pooling: ``cls``, ``mean`` or ``cls+mean``.

    Shapes:
        images: (batch, 3, size, size), float.
        returns: (batch, width), float.
    """

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        # Models that normalise after pooling leave their tokens as they come; each part is normalised here instead.
        self._has_norm = isinstance(getattr(model, "fc_norm", None), nn.Module)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images."""
        tokens = self.model.forward_features(images)
        pooled = [
            pool_tokens(tokens, part, num_prefix=self.model.num_prefix_tokens) for part in self.pooling.split("+")
        ]
        return torch.cat([self.model.fc_norm(part) if self._has_norm else part for part in pooled], dim=1)
