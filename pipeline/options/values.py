"""Read values of options from a file or from Python: find them by name, check type and rule, build dataclasses."""

import dataclasses
import numbers
import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.declaration import check_options, check_value, without_none
from pipeline.stage import AnyStage

KINDS = ("inputs", "params", "runtime")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path, as text"}


@dataclasses.dataclass(frozen=True)
class Known:
    """An option of a stage.

    Args:
        kind: Which of the stage's dataclasses has it: inputs, params or runtime.
        field: Field that declares it.
        hint: Its type.
    """

    kind: str
    field: "dataclasses.Field[Any]"
    hint: Any

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.field.default is dataclasses.MISSING

    @property
    def is_repeatable(self) -> bool:
        """Whether it takes a list."""
        return typing.get_origin(self.hint) is tuple

    def read(self, value: Any, *, called: str) -> Any:
        """Convert and check a value; one value alone stands for a list of one.

        Args:
            value: Value from a file or from Python.
            called: How the user named the option, for the message.

        Raises:
            ProtoRKDError: the value is of another type, or breaks the option's rule.
        """
        if value is None and self.hint is not without_none(self.hint):
            return None
        if self.is_repeatable:
            [kind, *_] = typing.get_args(self.hint)
            items = value if isinstance(value, list | tuple) else [value]
            converted: Any = tuple(_convert(item, kind, called=called) for item in items)
        else:
            converted = _convert(value, without_none(self.hint), called=called)
        check_value(self.field, converted, called=called)
        return converted


def options_of(stage: AnyStage) -> dict[str, Known]:
    """Return the options of a stage by name, those without a default first."""
    options: dict[str, Known] = {}
    for kind in KINDS:
        of_kind = getattr(stage, kind)
        hints = typing.get_type_hints(of_kind)
        options |= {field.name: Known(kind, field, hints[field.name]) for field in dataclasses.fields(of_kind)}
    return dict(sorted(options.items(), key=lambda entry: not entry[1].is_required))


def read_values(stage: AnyStage, values: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """Read values for options of a stage by name, written with ``-`` or ``_``.

    Args:
        stage: The stage whose options they are.
        values: Values by option, from a file or from Python.
        place: Where the values stand, for the message, such as ``sweep.toml [distill]``.

    Raises:
        ProtoRKDError: there is no such option, it is given twice, or its value is not what it takes.
    """
    known = options_of(stage)
    converted: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise unknown(key, known, what=f"an option of {stage.name}", place=place)
        if name in converted:
            raise ProtoRKDError(f"{place} must give each option once; got {key} twice. Leave one out.")
        converted[name] = known[name].read(value, called=f"{key} in {place}")
    return converted


def build(stage: AnyStage, values: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """Build the three dataclasses of a stage from the values of `read_values`; a preset or the defaults fill the rest.

    Returns:
        The dataclasses by the names that `run_stage` takes: params, inputs and runtime.

    Raises:
        ProtoRKDError: an option that has no default is left out, or values do not go together.
    """
    known = options_of(stage)
    for name, each in known.items():
        if each.is_required and name not in values:
            raise ProtoRKDError(f"{place} must give {name.replace('_', '-')}, which {stage.name} cannot do without.")
    if stage.presets is not None:
        values = {**values, **stage.presets.fill(values)}
    made = {
        kind: getattr(stage, kind)(
            **{name: values[name] for name in known if known[name].kind == kind and name in values}
        )
        for kind in KINDS
    }
    for options in made.values():
        check_options(options)
    return made


def unknown(name: str, known: Iterable[str], *, what: str, place: str) -> ProtoRKDError:
    """Return an error that says that a name is not known, and suggests a similar one."""
    import difflib

    names = [each.replace("_", "-") if "-" in name else each for each in known]
    near = difflib.get_close_matches(name, names, n=1)
    advice = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
    return ProtoRKDError(f"{place} must name {what}; got {name!r}. {advice}")


def _convert(value: Any, kind: type, *, called: str) -> Any:
    """Convert a value to a type that it has or may stand for; numbers may be numpy's."""
    is_bool = isinstance(value, bool) or type(value).__name__ == "bool"
    if kind is bool and is_bool:
        return bool(value)
    if kind is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, numbers.Real) and not is_bool:
        return float(value)
    if kind in (str, Path) and isinstance(value, str | os.PathLike):
        return kind(os.fspath(value))
    raise ProtoRKDError(f"{called} must be {_WORDS[kind]}; got {value!r}.{_advice(value, kind)}")


def _advice(value: Any, kind: type) -> str:
    if kind is str and isinstance(value, bool | int | float):
        return " Put it in quotes."
    return " Write it without quotes." if isinstance(value, str) and kind in (bool, int, float) else ""
