"""Check where Python code that comes with a teacher is loaded from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json

_ELSEWHERE = "--"  # OWNER/NAME--module.Class: the code of another repository, which may change any day


def check_code(folder: Path) -> None:
    """Refuse a model that takes code from another repository, because its identity covers only its own folder.

    Args:
        folder: Folder of a sentence-transformers model.

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
    """Yield the classes that a configuration loads by name: under ``auto_map``, and as ``type`` of modules."""
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
