"""The scale of scores, learnt through its logarithm, as CLIP learns it."""

import math

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.embeddings import check_above_zero


def new_logit_scale(objective: str, *, temperature: float, learn_temperature: bool, max_scale: float) -> nn.Parameter:
    """Make the logarithm of the scale that a temperature stands for; a trainable parameter if it is to be learnt.

    Raises:
        ProtoRKDError: If a number is not finite and above 0, or the temperature is below 1 / max_scale.
    """
    check_above_zero(objective, temperature=temperature, max_scale=max_scale)
    if 1 / temperature > max_scale:
        raise ProtoRKDError(
            f"temperature of {objective} must be at least 1 / max_scale, {1 / max_scale:g}; got {temperature}. "
            "Start higher, or raise max_scale."
        )
    return nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_temperature)


def bounded_scale(logit_scale: Tensor, max_scale: float, *, training: bool) -> Tensor:
    """Return the scale; in training the parameter itself is brought back first, as CLIP's authors do after a step."""
    if not training:
        return logit_scale.clamp(max=math.log(max_scale)).exp()
    with torch.no_grad():
        logit_scale.clamp_(max=math.log(max_scale))
    return logit_scale.exp()
