"""The inputs of a stage once identified: a dataclass of `Input` fields, and the keys that they are hashed under."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.stage import Context, Input

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_KEY = "hashed as"

S = TypeVar("S")


@dataclass(frozen=True)
class Identified(Generic[S]):
    """The inputs of a stage that others ask for on their way, and have identified already.

    Args:
        sources: The stage's dataclass of identified inputs.
    """

    sources: S


def take_identified(inputs: Identified[S], _params: object, _context: Context) -> S:
    """Return what the asking stage has identified: the ``identify`` of such a stage."""
    return inputs.sources


def hashed_as(key: str) -> Mapping[str, str]:
    """Name the key of a field that is hashed and recorded under another one than its name, as the field's metadata.

    Args:
        key: Key in fingerprints and records. Another key makes another fingerprint.
    """
    return {_KEY: key}


def hashed_inputs(sources: "DataclassInstance") -> dict[str, Input[Any]]:
    """List the inputs of a stage under the keys of its fingerprint and its record, in the order of the fields.

    A field holds an input, under the field's name unless `hashed_as` says otherwise; None, which is left out; or a
    mapping of inputs, each under its own key.

    Args:
        sources: What the stage has identified.

    Example:
        >>> from dataclasses import dataclass, field
        >>> @dataclass(frozen=True)
        ... class Sources:
        ...     captions: Input[None]
        ...     images: Input[None] = field(metadata=hashed_as("pictures"))
        >>> list(hashed_inputs(Sources(Input("0", value=None), Input("1", value=None))))
        ['captions', 'pictures']
    """
    inputs: dict[str, Input[Any]] = {}
    for each in fields(sources):
        value = getattr(sources, each.name)
        if value is None:
            continue
        named = value if isinstance(value, Mapping) else {each.metadata.get(_KEY, each.name): value}
        assert not inputs.keys() & named.keys(), f"{type(sources).__name__} has two inputs under one key"
        inputs |= named
    return inputs
