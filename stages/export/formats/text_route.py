"""Copy the teacher's modules into an export: its files unchanged, in folders with new names."""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_unsynced
from pipeline.fingerprint import canonical_json
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.loading import load_model
from stages.components.teacher.weights.files import changes_on_loading
from stages.components.teacher.weights.mending import mend_weights
from stages.export.code_files import CODE_NAMES

_MODULES_NAME, _CONFIG_NAME, _ROUTER_NAME = "modules.json", "config_sentence_transformers.json", "router_config.json"
_TOKENIZER_NAME = "whitespacetokenizer_config.json"
_TRANSFORMER_CONFIGS = "sentence_*_config.json"


@dataclass(frozen=True)
class TextRoute:
    """The sequence of modules that embeds a caption.

    Args:
        modules: Class of each module, by the name of its folder in the export.
        prompts: Prompts of the teacher, by name.
        default_prompt_name: Name of the prompt that is put before a caption unless another is asked for.
        truncate_dim: Number of dimensions that the teacher itself keeps; 0 for all.
    """

    modules: dict[str, str]
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int


@dataclass(frozen=True)
class _Module:
    path: str  # relative to the teacher's folder; "" for the folder itself
    kind: str  # its class


def write_text_route(source: TeacherSource, files: Collection[str], out: Path) -> TextRoute:
    """Copy a teacher's modules into an export's folder, with weights as they are loaded: in float32, plainly named.

    Args:
        source: Source of the teacher.
        files: Files that make its identity, relative to its folder.
        out: Folder of the export.

    Raises:
        ProtoRKDError: the teacher cannot be loaded, or its code has the same file name as ours.
    """
    if source.kind == "word-vectors":
        model = load_model(source)
        return TextRoute(_save(enumerate(model), out), prompts={}, default_prompt_name=None, truncate_dim=0)
    config = read_json(source.path / _CONFIG_NAME) if _CONFIG_NAME in files else {}
    modules = _modules(source.path) if _MODULES_NAME in files else [_Module("", "")]
    taken = {}
    for index, module in enumerate(modules):
        others = [other.path for other in modules if other.path and other is not module]
        name = f"text_{index}_{module.kind.rpartition('.')[2] or 'Transformer'}"
        for file in _files_of(module, files, others):
            target = out / name / file.removeprefix(f"{module.path}/" if module.path else "")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / file, target)
        taken[name] = module.kind
    if _MODULES_NAME not in files:
        taken = _complete(source, out)
    if changes_on_loading(source.path):
        for name in taken:
            mend_weights(out / name, widen=True)
    if source.trusts_code:
        _copy_code(source.path, files, out)
    return TextRoute(
        taken,
        prompts=dict(config.get("prompts") or {}),
        default_prompt_name=config.get("default_prompt_name"),
        truncate_dim=config.get("truncate_dim") or 0,
    )


def _modules(folder: Path) -> list[_Module]:
    """List the modules that embed a caption: all, or the text route of a model that routes text and images apart."""
    modules = [_Module(entry["path"], entry["type"]) for entry in read_json(folder / _MODULES_NAME)]
    router = folder / modules[0].path / _ROUTER_NAME
    config = read_json(router) if router.is_file() else {"structure": {}}
    if "text" not in config["structure"]:
        return modules
    ids, root = config["structure"]["text"], f"{modules[0].path}/" if modules[0].path else ""
    return [*(_Module(f"{root}{name}", config["types"][name]) for name in ids), *modules[1:]]


def _files_of(module: _Module, files: Iterable[str], others: list[str]) -> list[str]:
    """Return the files below a module's folder; for the model's own folder, without other modules and their list."""
    if module.path:
        return [file for file in files if file.startswith(f"{module.path}/")]
    elsewhere = tuple(f"{path}/" for path in others)
    return [file for file in files if file not in (_MODULES_NAME, _CONFIG_NAME) and not file.startswith(elsewhere)]


def _complete(source: TeacherSource, out: Path) -> dict[str, str]:
    """Write what the library adds to a transformer that was not made for it: pooling, and how it is loaded."""
    model: Any = load_model(source)
    name = "text_0_Transformer"
    if not list((out / name).glob(_TRANSFORMER_CONFIGS)):
        model[0].save_config(str(out / name))
    kind = type(model[0])
    return {name: f"{kind.__module__}.{kind.__name__}"} | _save(list(enumerate(model))[1:], out)


def _save(modules: Iterable[tuple[int, Any]], out: Path) -> dict[str, str]:
    """Save modules that have no files yet, so that the same ones give the same bytes."""
    saved = {}
    for index, module in modules:
        kind = type(module)
        name = f"text_{index}_{kind.__name__}"
        (out / name).mkdir(parents=True)
        module.save(str(out / name))
        saved[name] = f"{kind.__module__}.{kind.__name__}"
        tokenizer = out / name / _TOKENIZER_NAME
        if tokenizer.is_file():
            config = read_json(tokenizer)
            # A set, which the library lists in a different order in every process.
            config["stop_words"] = sorted(config["stop_words"])
            write_unsynced(tokenizer, canonical_json(config))
    return saved


def _copy_code(folder: Path, files: Iterable[str], out: Path) -> None:
    """Copy a teacher's own code to where the library looks for it: the export's folder itself."""
    for file in files:
        if "/" in file or not file.endswith(".py"):
            continue
        if file in CODE_NAMES:
            raise ProtoRKDError(f"The teacher's code must not be called {file}, which is the student's. Rename it.")
        shutil.copyfile(folder / file, out / file)
