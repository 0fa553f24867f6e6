"""What ``--loss`` says, read before torch is imported."""

import math
from collections.abc import Iterable, Mapping

from data_schemas.errors import ProtoRKDError

_EXAMPLE = "Write --loss NAME=WEIGHT, for example --loss simreg=1 --loss rkd=0.5."


def parse_losses(specs: Iterable[str]) -> dict[str, float]:
    """Read ``NAME=WEIGHT`` pairs into weights by objective name, in the order given.

    ``NAME`` alone means a weight of 1. Names are checked by `build_objective`, which knows them.

    Args:
        specs: The values of ``--loss``, one per objective.

    Raises:
        ProtoRKDError: If there is no spec, a name is empty or given twice, or a weight is not finite and above 0.

    Example:
        >>> parse_losses(("simreg=1", "rkd=0.5"))
        {'simreg': 1.0, 'rkd': 0.5}
    """
    weights: dict[str, float] = {}
    for spec in specs:
        name, equals, weight = (part.strip() for part in spec.partition("="))
        if not name:
            raise ProtoRKDError(f"--loss must name an objective; got {spec!r}. {_EXAMPLE}")
        if name in weights:
            raise ProtoRKDError(f"--loss must name each objective once; got {name!r} twice. Add its weights into one.")
        weights[name] = _parse_weight(weight, spec) if equals else 1.0
    if not weights:
        raise ProtoRKDError(f"--loss must be given at least once; got none. {_EXAMPLE}")
    return weights


def format_losses(weights: Mapping[str, float]) -> tuple[str, ...]:
    """Write weights by objective name as ``--loss`` takes them, each in its shortest form.

    Example:
        >>> format_losses({"simreg": 1.0, "rkd": 0.5})
        ('simreg=1', 'rkd=0.5')
    """
    return tuple(f"{name}={int(weight) if weight.is_integer() else weight}" for name, weight in weights.items())


def _parse_weight(text: str, spec: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ProtoRKDError(f"--loss must have a finite weight above 0; got {spec!r}. {_EXAMPLE}")
    return weight
