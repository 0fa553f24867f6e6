"""Options from dataclasses: type, default, unit, help, check and fingerprint come from one line."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from data_schemas.errors import ProtoRKDError

_KEY = "protorkd"
_TYPES: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.Path(path_type=Path)}

D = TypeVar("D")


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field's line says beside its type and default.

    Args:
        help: one sentence: meaning, unit, consequence.
        check: the rule that values keep, or None.
        choices: the allowed values, or none for any.
        metavar: how the value is called in ``--help``.
        flag: the option's name on the command line when it is not the field's.
    """

    help: str
    check: "Check | None" = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: str | None = None


@dataclasses.dataclass(frozen=True)
class Check:
    """A rule in words, and the test for it."""

    rule: str
    holds: Callable[[Any], bool]


POSITIVE = Check("be above 0", lambda value: value > 0)
NOT_NEGATIVE = Check("be 0 or more", lambda value: value >= 0)
BELOW_ONE = Check("be 0 or more and below 1", lambda value: 0 <= value < 1)
FRACTION = Check("lie between 0 and 1", lambda value: 0 <= value <= 1)


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - the word that click uses for it
    check: Check | None = None,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    flag: str | None = None,
) -> Any:
    """Write a stage's parameter once. Without a default the option is required; a tuple may be given repeatedly."""
    metadata = {_KEY: Option(help=help, check=check, choices=tuple(choices), metavar=metavar, flag=flag)}
    return dataclasses.field(default=default, metadata=metadata)


def check_options(values: Any) -> None:
    """Hold a dataclass instance to the rules of its lines.

    Raises:
        ProtoRKDError: a value breaks its rule; the message names the flag.
    """
    for field in dataclasses.fields(values):
        line, value = _line(field), getattr(values, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None:
                continue
            if line.choices and item not in line.choices:
                raise ProtoRKDError(f"{flag_of(field)} must be one of {', '.join(line.choices)}; got {item}.")
            if line.check and not line.check.holds(item):
                raise ProtoRKDError(f"{flag_of(field)} must {line.check.rule}; got {item}.")


def flag_of(field: "dataclasses.Field[Any]") -> str:
    """The option's name on the command line: ``warmup_steps`` is ``--warmup-steps``."""
    return "--" + (_line(field).flag or field.name.replace("_", "-"))


def click_options(kind: type) -> list[click.Option]:
    """Make a click option of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return [_click_option(field, hints[field.name]) for field in dataclasses.fields(kind)]


def take(kind: type[D], values: dict[str, Any]) -> D:
    """Build the dataclass from click's values, and check it."""
    built = kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
    check_options(built)
    return built


def as_json(values: Any) -> dict[str, Any]:
    """Write a dataclass of options as JSON; `from_json` reads it."""
    found = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}


def from_json(kind: type[D], values: Mapping[str, Any]) -> D:
    """Build the dataclass from its JSON, and check it; a field that the JSON lacks has its default.

    Raises:
        ProtoRKDError: a value breaks its rule.
    """
    hints = typing.get_type_hints(kind)
    found = {field.name: values.get(field.name, field.default) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in found.items():
        if isinstance(value, list):
            found[name] = tuple(value)
        elif value is not None and _without_none(hints[name]) is Path:
            found[name] = Path(value)
    return take(kind, found)


def _line(field: "dataclasses.Field[Any]") -> Option:
    line: Option = field.metadata[_KEY]
    return line


def _click_option(field: "dataclasses.Field[Any]", hint: Any) -> click.Option:
    line, flag = _line(field), flag_of(field)
    required = field.default is dataclasses.MISSING
    common: dict[str, Any] = {"help": line.help, "required": required, "show_default": not required}
    if not required:
        common["default"] = field.default
        common["show_default"] = field.default not in (None, ())
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", field.name], **common)
    multiple = typing.get_origin(hint) is tuple
    value_type = typing.get_args(hint)[0] if multiple else _without_none(hint)
    kind = click.Choice(line.choices) if line.choices else _TYPES[value_type]
    metavar = line.metavar or (None if line.choices else kind.name.upper())
    return click.Option([flag, field.name], type=kind, multiple=multiple, metavar=metavar, **common)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        [kind] = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kind
    return hint
