"""Presets: named sets of values that take the place of a stage's defaults, where the user says nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data_schemas.errors import ProtoRKDError

Values = Mapping[str, Any]
"""Values of options by name, as the stage's dataclasses hold them."""


@dataclass(frozen=True)
class Preset:
    """A set of values that were found to do well together.

    Args:
        summary: One sentence about when to take it.
        values: Its values.
    """

    summary: str
    values: Values


@dataclass(frozen=True)
class Presets:
    """The presets of a stage, and how one is chosen.

    Args:
        option: Name of the stage's option that names one.
        sets: The presets, by name.
        choose: Names the preset that goes with the values that the user gave, where those name none; "" for none.
        fit: Takes the values of a preset and those that the user gave, and returns the values to set: not those that
            the user gave, nor those that mean nothing beside them.
    """

    option: str
    sets: Mapping[str, Preset]
    choose: Callable[[Values], str]
    fit: Callable[[Values, Values], Values]

    def fill(self, given: Values) -> dict[str, Any]:
        """Return the values that a preset sets beside those that the user gave, and under `option` its name.

        Raises:
            ProtoRKDError: there is no preset of the name that was given.
        """
        name = given.get(self.option) or self.choose(given)
        if not name:
            return {}
        if name not in self.sets:
            raise ProtoRKDError(f"--{self.option} must be one of {', '.join(self.sets)}; got {name}.")
        return {self.option: name, **self.fit(self.sets[name].values, given)}
