"""Batch normalisation over the batch of all ranks, also on CPUs, where torch's own SyncBatchNorm does not run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.components.compute.distributed import Ranks


def sync_batchnorm(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Make every batch normalisation take its mean and variance over all ranks; names and weights stay as they are.

    Returns:
        The module, to be used from here on.
    """
    if ranks.size == 1:
        return module
    if device.type == "cuda":
        convert: Callable[..., nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(module, ranks.group)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            child.forward = _SyncedForward(child, ranks)  # type: ignore[assignment, method-assign]
    return module


class _SyncedForward:
    """A batch normalisation's forward, from sums over all ranks while it trains.

    Args:
        layer: Layer whose weights and running statistics are used.
        ranks: Ranks whose inputs are summed.
    """

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d, ranks: Ranks) -> None:
        self._layer = layer
        self._ranks = ranks

    def __deepcopy__(self, memo: dict[int, object]) -> "_SyncedForward":
        """Copy the layer, and share the ranks."""
        copied: nn.BatchNorm1d | nn.BatchNorm2d = memo[id(self._layer)]  # type: ignore[assignment]
        return _SyncedForward(copied, self._ranks)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Normalise each channel by the mean and variance of all ranks' inputs.

        Shapes:
            inputs: (own, channels, ...), float.
            returns: the same.
        """
        layer = self._layer
        if not layer.training:
            return type(layer).forward(layer, inputs)
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        count = torch.tensor([inputs.numel() / inputs.shape[1]])
        wide = inputs.float()
        sums = self._ranks.sum(torch.cat([wide.sum(axes), wide.square().sum(axes), count]))
        total = sums[-1]
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        _move_statistics(layer, mean.detach(), (variance * total / (total - 1)).detach())
        shape = [1, -1, *[1] * (inputs.ndim - 2)]
        scale = layer.weight * torch.rsqrt(variance + layer.eps)
        return (wide * scale.view(shape) + (layer.bias - mean * scale).view(shape)).to(inputs.dtype)


def _move_statistics(layer: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked += 1
    momentum = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(variance, momentum)
