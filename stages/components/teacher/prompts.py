"""Look up the prompts that a teacher registers by name, in its files and without torch."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.stage import Input
from stages.components.teacher.identity import TeacherSource

QUERY_PROMPT_FLAG = "--query-prompt-name"
_SETTINGS, _MODULES = "config_sentence_transformers.json", "modules.json"
_ROUTERS = (".Router", ".Asym")
_ROUTER_CONFIGS = ("router_config.json", "config.json")  # the second until sentence-transformers 5
_TEXT_ROUTE = "text"


def query_prompt_option() -> Any:
    """Declare ``--query-prompt-name``, the same for every command that embeds queries."""
    return option(
        None,
        help="Prompt that the teacher registers under this name, put before words that are looked for. Default: what "
        "was put before the captions.",
        metavar="NAME",
    )


def find_query_prompt(name: str | None, teacher: Input[TeacherSource]) -> Input[str] | None:
    """Look up the prompt of ``--query-prompt-name``, identified by its text; None where none is asked for.

    Raises:
        ProtoRKDError: as `named_prompt`.
    """
    if name is None:
        return None
    text = named_prompt(name, teacher.value, flag=QUERY_PROMPT_FLAG)
    return Input(digest=hash_json(text), location=name, parts={name: repr(text)}, value=text)


def named_prompt(name: str, source: TeacherSource, *, flag: str) -> str:
    """Look up the text of a prompt, as ``encode(prompt_name=...)`` of sentence-transformers does.

    Args:
        name: Name of the prompt.
        source: Teacher that registers it.
        flag: Flag that named it, for messages.

    Raises:
        ProtoRKDError: the teacher has no such prompt, or one without text that its default prompt would stand in for,
            or has a network for each task, which a prompt cannot choose.
    """
    if routes := _task_routes(source):
        raise ProtoRKDError(
            f"{flag} must go with a teacher that has one network for all texts; got {source.name}, which has a route "
            f"for each of {', '.join(routes)} (Router). Save the one that you want as a model of its own, and pass "
            f"that: model = SentenceTransformer(FOLDER); SentenceTransformer(modules=[*model[0].sub_modules["
            f"{routes[-1]!r}], *list(model)[1:]], prompts=model.prompts).save(OTHER_FOLDER)."
        )
    settings = _settings(source)
    prompts = settings.get("prompts") or {}
    if name not in prompts:
        listed = ", ".join(f"{known} ({text!r})" for known, text in prompts.items())
        raise ProtoRKDError(
            f"{flag} must name a prompt that the teacher registers; got {name}. {source.name} has "
            f"{listed or 'none'}. {'Name one of these.' if listed else 'Leave the flag out.'}"
        )
    text = prompts[name] or ""
    default = settings.get("default_prompt_name")
    if not text and default and prompts.get(default):
        raise ProtoRKDError(
            f"{flag} must name a prompt with a text, for {source.name} puts {prompts[default]!r} before texts by "
            f"default; got {name}, which is empty. Set default_prompt_name to null in a copy of its {_SETTINGS}, and "
            "pass that."
        )
    return str(text)


def _task_routes(source: TeacherSource) -> list[str]:
    """List the routes of a model that sends texts through one network or another; none for any other model."""
    modules = _read(source.path / _MODULES) or [{}]
    first = modules[0]
    if not str(first.get("type")).endswith(_ROUTERS):
        return []
    configs = (_read(source.path / first.get("path", "") / name) for name in _ROUTER_CONFIGS)
    routes = next((list(config["structure"]) for config in configs if config and "structure" in config), [])
    return [] if _TEXT_ROUTE in routes else routes


def _settings(source: TeacherSource) -> dict[str, Any]:
    settings = _read(source.path / _SETTINGS)
    return settings if isinstance(settings, dict) else {}


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
