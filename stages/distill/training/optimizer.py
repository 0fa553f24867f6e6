"""Build the optimizer: which parameters decay, which betas suit an architecture, and the learning rate's schedule."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_LR_SCALE = "lr_scale"


@dataclass(frozen=True)
class AdamWSettings:
    """Settings of AdamW; 0 leaves beta2 or eps to the architecture, as CLIP's authors chose them.

    Args:
        lr: Peak learning rate.
        weight_decay: Decay of weight matrices and kernels.
        beta1: Decay of the gradient's running mean.
        beta2: Decay of its running square; 0: 0.98 for transformers, 0.999 for the rest.
        eps: Number added to the root of that square; 0: 1e-6 for transformers, 1e-8 for the rest.
        backbone_lr_scale: Factor on the learning rate of the backbone's parameters.
    """

    lr: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.0
    eps: float = 0.0
    backbone_lr_scale: float = 1.0


def build_optimizer(student: nn.Module, objectives: nn.Module, settings: AdamWSettings) -> torch.optim.AdamW:
    """Make AdamW over the parameters that train; those of the objectives do not decay.

    Radford et al., CLIP, 2021, arXiv:2103.00020, table 18, gives transformers another beta2 and eps.

    Args:
        student: Student; with a factor on the backbone's learning rate, of a backbone and a head.
        objectives: Objectives, with whatever parameters they have.
        settings: Settings of AdamW.
    """
    transformer = any(_is_attention(module) for module in student.modules())
    groups = parameter_groups(objectives, 0.0)
    if settings.backbone_lr_scale == 1:
        groups = parameter_groups(student, settings.weight_decay) + groups
    else:
        of_backbone = parameter_groups(student.get_submodule("backbone"), settings.weight_decay)
        scaled = [{**group, _LR_SCALE: settings.backbone_lr_scale} for group in of_backbone]
        groups = scaled + parameter_groups(student.get_submodule("head"), settings.weight_decay) + groups
    device = next(student.parameters()).device
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2 or (0.98 if transformer else 0.999)),
        eps=settings.eps or (1e-6 if transformer else 1e-8),
        fused=device.type in ("cpu", "cuda"),
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters, each times the factor that `build_optimizer` gave it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(_LR_SCALE, 1.0)


def trained_parameters(*modules: nn.Module) -> list[nn.Parameter]:
    """List the parameters of several modules that are not frozen."""
    return [one for one in chain.from_iterable(module.parameters() for module in modules) if one.requires_grad]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not, as an optimizer takes them.

    Weight matrices and kernels decay; biases and gains do not, since pulling those to 0 switches their layer off.

    Args:
        module: The module to train, its frozen parameters left out.
        weight_decay: Decay of the first group; the second has 0.

    Returns:
        Always two groups, decaying first; either may be empty.
    """
    trainable = trained_parameters(module)
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


def _is_attention(module: nn.Module) -> bool:
    """Return whether a module is torch's attention, or that of timm or transformers, which write their own."""
    kind = type(module)
    if kind.__module__.partition(".")[0] in ("timm", "transformers"):  # optional, so their types are not imported
        return kind.__name__.endswith("Attention")
    return isinstance(module, nn.MultiheadAttention)
