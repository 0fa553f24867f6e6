"""Python code that comes with a teacher: where it may lie."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json

_ELSEWHERE = "--"  # OWNER/NAME--module.Class: the code of another repository, whatever it holds on the day


def check_code(folder: Path) -> None:
    """Refuse a model that fetches code from elsewhere: what is not in its folder is not in its identity.

    Args:
        folder: a sentence-transformers model.

    Raises:
        ProtoRKDError: one of its configurations names the code of another repository.
    """
    for path in sorted([*folder.rglob("*config.json"), *folder.rglob("modules.json")]):
        for name in _class_names(read_json(path)):
            if _ELSEWHERE in name:
                raise ProtoRKDError(
                    f"{path} must name code of its own folder; got {name!r}, which is another repository's. Copy that "
                    "code beside the model and name it there, for --trust-remote-code takes no other."
                )


def _class_names(config: Any) -> Iterator[str]:
    """The classes that a configuration has loaded by name: of ``auto_map``, and ``type`` of modules."""
    if isinstance(config, list):
        for module in config:
            yield from _class_names(module)
    if isinstance(config, dict):
        for key in ("auto_map", "type", "types"):
            yield from _strings(config.get(key))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
