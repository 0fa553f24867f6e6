"""Options from dataclasses: type, default, unit, help, check and fingerprint come from one line."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from data_schemas.errors import ProtoRKDError
from data_schemas.later_fields import LATER
from pipeline.options.completion import complete_names, complete_references

_KEY = "protorkd"
_TYPES: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.Path(path_type=Path)}

D = TypeVar("D")


@dataclasses.dataclass(frozen=True)
class Option:
    """The part of a field's declaration that its type and default do not say.

    Args:
        help: One sentence: meaning, unit, consequence.
        check: Rule that values must obey, or None.
        choices: Allowed values; empty allows any.
        metavar: Name of the value in ``--help``.
        flag: Name of the option on the command line, if it is not the field's.
        artifact: Stage whose artifact the value names, or None; a run of several stages fills it in, and a shell
            completes it.
        complete: Returns the values that a shell may complete, where there are too many for choices.
        runs_code: Whether the value lets code from elsewhere run: no record can say so, only the command that runs it.
        is_read: Tells from the stage's parameters whether a run reads what the value names; None where it always does.
            A run of several stages fills in nothing that is not read.
    """

    help: str
    check: "Check | None" = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    flag: str | None = None
    artifact: str | None = None
    complete: Callable[[], Iterable[str]] | None = None
    runs_code: bool = False
    is_read: Callable[[Any], bool] | None = None


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
    artifact: str | None = None,
    complete: Callable[[], Iterable[str]] | None = None,
    runs_code: bool = False,
    is_read: Callable[[Any], bool] | None = None,
    later: bool = False,
) -> Any:
    """Write a stage's parameter once. Without a default the option is required; a tuple may be given repeatedly.

    One that a stage gained ``later`` is hashed and recorded only where it is not at its default, so that what was asked
    for before keeps its fingerprint.
    """
    line = Option(help, check, tuple(choices), metavar, flag, artifact, complete, runs_code, is_read)
    return dataclasses.field(default=default, metadata={_KEY: line, **(LATER if later else {})})


def check_options(values: Any) -> None:
    """Check a dataclass instance by the rules of its fields.

    Raises:
        ProtoRKDError: a value breaks its rule; the message names the flag.
    """
    for field in dataclasses.fields(values):
        check_value(field, getattr(values, field.name), called=flag_of(field))


def check_value(field: "dataclasses.Field[Any]", value: Any, *, called: str) -> None:
    """Check the value of one option by its rules.

    Args:
        field: Field that declares the option.
        value: Value of the field's type; each element of a tuple is checked.
        called: How the user named the option, for the message.

    Raises:
        ProtoRKDError: it breaks a rule.
    """
    line = line_of(field)
    for item in value if isinstance(value, tuple) else (value,):
        if item is None:
            continue
        if line.choices and item not in line.choices:
            raise ProtoRKDError(f"{called} must be one of {', '.join(line.choices)}; got {item}.")
        if line.check and not line.check.holds(item):
            raise ProtoRKDError(f"{called} must {line.check.rule}; got {item}.")


def flag_of(field: "dataclasses.Field[Any]") -> str:
    """Return the option's name on the command line: ``warmup_steps`` is ``--warmup-steps``."""
    return "--" + (line_of(field).flag or field.name.replace("_", "-"))


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
    declared = dataclasses.fields(kind)  # type: ignore[arg-type]
    fields = {field.name: values.get(field.name, field.default) for field in declared}
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
        elif value is not None and without_none(hints[name]) is Path:
            fields[name] = Path(value)
    return take(kind, fields)


def line_of(field: "dataclasses.Field[Any]") -> Option:
    """Return the `Option` in a field's metadata."""
    line: Option = field.metadata[_KEY]
    return line


def without_none(hint: Any) -> Any:
    """Return an option's type without None: str for ``str | None``."""
    if isinstance(hint, types.UnionType):
        [kind] = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kind
    return hint


def _click_option(field: "dataclasses.Field[Any]", hint: Any) -> click.Option:
    line, flag = line_of(field), flag_of(field)
    required = field.default is dataclasses.MISSING
    common: dict[str, Any] = {"help": line.help, "required": required, "show_default": not required}
    if not required:
        common["default"] = field.default
        common["show_default"] = field.default not in (None, ())
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", field.name], **common)
    multiple = typing.get_origin(hint) is tuple
    value_type = typing.get_args(hint)[0] if multiple else without_none(hint)
    kind = click.Choice(line.choices) if line.choices else _TYPES[value_type]
    metavar = line.metavar or (None if line.choices else kind.name.upper())
    return click.Option(
        [flag, field.name], type=kind, multiple=multiple, metavar=metavar, shell_complete=_completer(line), **common
    )


def _completer(line: Option) -> Any:
    """Return the function that completes an option's values; None leaves it to the option's type."""
    if line.artifact is not None:
        return complete_references(line.artifact)
    return None if line.complete is None else complete_names(line.complete)
