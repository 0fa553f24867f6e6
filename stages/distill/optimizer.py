"""Which parameters decay, and how the learning rate moves."""

import math
from typing import Any

from torch import Tensor, nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not, as an optimizer takes them.

    Weight matrices and kernels decay; biases and gains do not, since pulling those to 0 switches their layer off.

    Args:
        module: The module to train, its frozen parameters left out.
        weight_decay: Decay of the first group; the second has 0.

    Returns:
        Always two groups, decaying first; either may be empty.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if not _is_vector(parameter)], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if _is_vector(parameter)], "weight_decay": 0.0},
    ]


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Return the factor on the peak learning rate: a linear rise, then half a cosine down to 0.

    Args:
        step: Optimizer steps already taken, from 0.
        warmup_steps: Steps of the rise: 1 / warmup_steps at step 0, 1 at its last; 0 starts at the peak.
        total_steps: Step at which the factor reaches 0, where it stays.

    Example:
        >>> [round(warmup_cosine(step, warmup_steps=2, total_steps=6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2


def _is_vector(parameter: Tensor) -> bool:
    """Count axes longer than 1, so that a gain of shape (channels, 1, 1), as in ConvNeXt, is a vector too."""
    return sum(size > 1 for size in parameter.shape) <= 1
