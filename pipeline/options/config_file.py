"""Configuration files: read options of stages in TOML or YAML, strictly, and write them so that they read back."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import regular_only
from pipeline.options.values import KINDS, read_values, unknown
from pipeline.stage import AnyStage
from pipeline.store.store import Store

STORE = "store"
CONFIG_NAME = "config.toml"
_FORMS = "a .toml, .yaml or .yml file"


def read_file(path: Path) -> dict[str, Any]:
    """Read a file of options as nested tables.

    Raises:
        ProtoRKDError: it is missing, of another kind, not well-formed, or gives a key twice.
    """
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        raise ProtoRKDError(f"A configuration must be {_FORMS}; got {path}.")
    try:
        with open(path, encoding="utf-8", opener=regular_only) as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ProtoRKDError(f"{path} must be a readable file in UTF-8; {error}.") from error
    found = _read_toml(text, path) if path.suffix.lower() == ".toml" else _read_yaml(text, path)
    return _tables(found, str(path))


def stage_values(path: Path, stage: AnyStage, *, stages: Sequence[AnyStage]) -> dict[str, Any]:
    """Read a file's options of one stage: its table, or the whole file if it has no tables; and ``store``.

    Tables of other stages are checked by the same rules, so that a slip shows at once.

    Args:
        path: Path of the file.
        stage: The stage whose options are wanted.
        stages: All stages that a file may have tables of.

    Returns:
        Options by name, and ``store`` if it is there.

    Raises:
        ProtoRKDError: as `read_file`; a key is unknown, or its value is not what the option takes; or the file has
            tables, but none for this stage.
    """
    content = read_file(path)
    by_name = {each.name: each for each in (*stages, stage)}
    tables = {_stage_name(key): value for key, value in content.items() if isinstance(value, Mapping)}
    flat = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    values = {STORE: read_store(flat.pop(STORE), place=str(path))} if STORE in flat else {}
    for name, table in tables.items():
        if name not in by_name:
            raise unknown(name, by_name, what="a stage by its tables", place=str(path))
        read = read_values(by_name[name], table, place=f"{path} [{name}]")
        values |= read if name == stage.name else {}
    if flat and tables:
        raise ProtoRKDError(
            f"{path} must hold options of one stage, or a table for each; got {', '.join(flat)} outside the tables "
            f"{', '.join(tables)}. Move them into one."
        )
    if tables and stage.name not in tables:
        raise ProtoRKDError(f"{path} must have a table [{stage.name}]; got {', '.join(tables)}.")
    return values | read_values(stage, flat, place=str(path))


def read_store(value: Any, *, place: str) -> Path:
    """Take the value of ``store``.

    Raises:
        ProtoRKDError: it is no text.
    """
    if not isinstance(value, str):
        raise ProtoRKDError(f"{STORE} in {place} must be a path, as text; got {value!r}.")
    return Path(value)


def config_text(
    stage: AnyStage,
    options: Mapping[str, Any],
    *,
    store: Store | None = None,
    origins: Mapping[str, str] | None = None,
) -> str:
    """Write all options of a stage as TOML that ``--config`` takes; an option that is not given becomes a comment.

    Args:
        stage: The stage whose options are written.
        options: The stage's three dataclasses, by kind.
        store: The place of all artifacts; None leaves it out.
        origins: Origin of each value, by option, written behind it.
    """
    said = origins or {}
    lines = [f"# {stage.name}, version {stage.version}, as it was asked for; --config reads it."]
    if store is not None:
        lines += [_line(STORE, str(store), said.get(STORE))]
    lines += ["", f"[{stage.name}]"]
    for kind in KINDS:
        lines += [_line(name.replace("_", "-"), value, said.get(name)) for name, value in vars(options[kind]).items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, origin: str | None) -> str:
    behind = f"  # {origin}" if origin else ""
    return f"# {key} is not given" if value is None else f"{key} = {toml_value(value)}{behind}"


def toml_value(value: Any) -> str:
    """Write a text, number, flag, path or list of these as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _read_toml(text: str, path: Path) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProtoRKDError(f"{path} must be TOML; {error}.") from error


def _read_yaml(text: str, path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
        """Loader that reads 5e-4 as a number, which YAML 1.1 does not, and refuses a key that comes twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
            return mapping

    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader=Loader) or {}  # noqa: S506 - a SafeLoader, told of one more way to write numbers
    except yaml.YAMLError as error:
        raise ProtoRKDError(f"{path} must be YAML; {' '.join(str(error).split())}.") from error


def _tables(content: Any, place: str) -> dict[str, Any]:
    """Check that keys are text and numbers are finite, at every depth."""
    if not isinstance(content, Mapping):
        raise ProtoRKDError(f"{place} must hold options by name; got {content!r}.")
    for key, value in content.items():
        if not isinstance(key, str):
            raise ProtoRKDError(f"{place} must name options by text; got {key!r}. Put it in quotes.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ProtoRKDError(f"{key} in {place} must be a finite number; got {value}.")
        if isinstance(value, Mapping):
            _tables(value, f"{place} [{key}]")
    return dict(content)


def _stage_name(key: str) -> str:
    return key.replace("_", "-")
