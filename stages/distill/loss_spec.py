"""Read ``--loss`` and ``--loss-option``, before torch is imported."""

import math
from collections.abc import Iterable, Mapping

from data_schemas.errors import ProtoRKDError

_LOSS_EXAMPLE = "Write --loss NAME=WEIGHT, for example --loss simreg=1 --loss rkd=0.5."
READ_PROTOTYPES = frozenset({"proto", "proto-rkd"})
"""Objectives that relate to prototypes of the cached captions."""
READ_FEATURES = frozenset({"structure"})
"""Objectives that compare with the cached features that the student embeds."""

_OPTION_EXAMPLE = "Write --loss-option NAME.OPTION=VALUE, for example --loss-option seed.queue-size=65536."


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
            raise ProtoRKDError(f"--loss must name an objective; got {spec!r}. {_LOSS_EXAMPLE}")
        if name in weights:
            raise ProtoRKDError(f"--loss must name each objective once; got {name!r} twice. Add its weights into one.")
        weights[name] = _parse_weight(weight, spec) if equals else 1.0
    if not weights:
        raise ProtoRKDError(f"--loss must be given at least once; got none. {_LOSS_EXAMPLE}")
    return weights


def reads_prototypes(specs: Iterable[str]) -> bool:
    """Tell whether an objective among the values of ``--loss`` relates to prototypes of the cached captions.

    Raises:
        ProtoRKDError: as `parse_losses`.
    """
    return not READ_PROTOTYPES.isdisjoint(parse_losses(specs))


def format_losses(weights: Mapping[str, float]) -> tuple[str, ...]:
    """Write weights by objective name as ``--loss`` takes them, each in its shortest form.

    Example:
        >>> format_losses({"simreg": 1.0, "rkd": 0.5})
        ('simreg=1', 'rkd=0.5')
    """
    return tuple(f"{name}={_shortest(weight)}" for name, weight in weights.items())


def parse_loss_options(specs: Iterable[str], losses: Iterable[str]) -> dict[str, dict[str, str]]:
    """Read ``NAME.OPTION=VALUE`` into values by objective name and option, in alphabetical order.

    Options come out with underscores, as Python names them, and numbers in their shortest form; whether an objective
    has such an option is checked by `read_options`, which knows it.

    Args:
        specs: The values of ``--loss-option``, one per option.
        losses: Names of the objectives that are trained on.

    Raises:
        ProtoRKDError: If a spec has another form, is given twice, or its objective is not trained on.

    Example:
        >>> parse_loss_options(("seed.queue-size=65536",), ("seed",))
        {'seed': {'queue_size': '65536'}}
    """
    names = list(losses)
    options: dict[str, dict[str, str]] = {}
    for spec in sorted(specs):
        place, equals, value = (part.strip() for part in spec.partition("="))
        name, dot, option = place.partition(".")
        if not (equals and dot and name and option and value):
            raise ProtoRKDError(f"--loss-option must name objective, option and value; got {spec!r}. {_OPTION_EXAMPLE}")
        if name not in names:
            raise ProtoRKDError(
                f"--loss-option must belong to an objective given by --loss; got {name!r}. Given: {', '.join(names)}."
            )
        key = option.replace("-", "_")
        if key in options.setdefault(name, {}):
            raise ProtoRKDError(f"--loss-option must set an option once; got {place!r} twice. Leave one out.")
        options[name][key] = _canonical(value)
    return options


def format_loss_options(options: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Write options as ``--loss-option`` takes them.

    Example:
        >>> format_loss_options({"seed": {"queue_size": "65536"}})
        ('seed.queue-size=65536',)
    """
    return tuple(
        f"{name}.{option.replace('_', '-')}={value}" for name, own in options.items() for option, value in own.items()
    )


def _parse_weight(text: str, spec: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise ProtoRKDError(f"--loss must have a finite weight above 0; got {spec!r}. {_LOSS_EXAMPLE}")
    return weight


def _canonical(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value.lower() if value.lower() in ("true", "false") else value
    return _shortest(number) if math.isfinite(number) else value


def _shortest(number: float) -> str:
    return str(int(number)) if number.is_integer() else str(number)
