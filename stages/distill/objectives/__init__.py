"""Distillation objectives by name: one file a family, one line each in `OBJECTIVES`."""

import difflib
import inspect
from collections.abc import Callable, Iterable

from torch import nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.rkd import RKDLoss
from stages.distill.objectives.simreg import SimRegL1Loss, SimRegLoss, SimRegSmoothL1Loss
from stages.distill.objectives.weighted import WeightedObjectives

__all__ = ["OBJECTIVES", "WeightedObjectives", "build_objective"]

OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "rkd": RKDLoss,
    "simreg": SimRegLoss,
    "simreg-l1": SimRegL1Loss,
    "simreg-smooth-l1": SimRegSmoothL1Loss,
}


def build_objective(name: str, *, dim: int, **options: object) -> nn.Module:
    """Make the objective called ``name``, to be called as ``objective(student=..., teacher=...)`` for a scalar.

    Args:
        name: A key of `OBJECTIVES`.
        dim: Width of the teacher's embeddings; reaches the objectives that take it.
        options: The objective's own options; those left out keep their defaults.

    Raises:
        ProtoRKDError: If there is no such objective, or it has no such option.

    Example:
        >>> build_objective("rkd", dim=384, angle_weight=2.0)
        RKDLoss()
    """
    if name not in OBJECTIVES:
        raise ProtoRKDError(_unknown("--loss must name a known objective", name, OBJECTIVES))
    known = _keyword_names(OBJECTIVES[name])
    for option in options:
        if option not in known - {"dim"}:
            raise ProtoRKDError(_unknown(f"An option of objective {name} must be known", option, known - {"dim"}))
    if "dim" in known:
        return OBJECTIVES[name](dim=dim, **options)
    return OBJECTIVES[name](**options)


def _keyword_names(function: Callable[..., nn.Module]) -> set[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in variadic}


def _unknown(rule: str, given: str, known: Iterable[str]) -> str:
    names = sorted(known)
    nearest = difflib.get_close_matches(given, names, n=1)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{rule}; got {given!r}.{suggestion} Known: {', '.join(names) or 'none'}."
