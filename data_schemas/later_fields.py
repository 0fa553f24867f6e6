"""Fields that a dataclass gained later: at their defaults they are neither hashed nor written, so old files stand."""

import dataclasses
from typing import Any

LATER = {"left out at its default": True}
"""Metadata of a field that is hashed and written only where its value is not its default."""


def later(default: Any) -> Any:
    """Declare a field that its dataclass gained after files of it were written and hashed.

    Args:
        default: Value that stands for what was the case before.
    """
    return dataclasses.field(default=default, metadata=LATER)


def is_left_out(field: "dataclasses.Field[Any]", value: Any) -> bool:
    """Tell whether a field is neither hashed nor written with a value: it was gained later, and has its default."""
    return bool(LATER.items() <= field.metadata.items()) and value == field.default


def as_plain(instance: Any) -> dict[str, Any]:
    """Convert a dataclass to a dict as `dataclasses.asdict` does, without the fields that are left out.

    Example:
        >>> @dataclasses.dataclass
        ... class Size:
        ...     side: int
        ...     crop: int = later(0)
        >>> as_plain(Size(224)), as_plain(Size(224, 256))
        ({'side': 224}, {'side': 224, 'crop': 256})
    """
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not is_left_out(field, value):
            plain[field.name] = as_plain(value) if dataclasses.is_dataclass(value) else value
    return plain
