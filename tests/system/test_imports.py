"""Imports run one way, data_schemas <- pipeline <- stages <- cli.py, and torch waits until a stage runs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "data_schemas": {"data_schemas"},
    "pipeline": {"data_schemas", "pipeline"},
    "stages": {"data_schemas", "pipeline", "stages"},
    "cli": {"data_schemas", "pipeline", "stages"},
    "protorkd": {"data_schemas", "pipeline", "stages"},
}
OURS = {*MAY_IMPORT, "benchmarks", "tests", "conftest"}
TENSOR_LIBRARIES = {"torch", "torchvision", "sentence_transformers", "transformers", "faiss"}
SLOW_TO_IMPORT = {*TENSOR_LIBRARIES, "zarr", "sklearn", "scipy"}
TABLES = {"numpy", "pyarrow"}  # which inputs are read with, but no option needs

MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for package in MAY_IMPORT
    for path in [*(ROOT / package).rglob("*.py"), ROOT / f"{package}.py"]
    if path.is_file()
}
STAGE_FOLDERS = {path.parent.name for name in ("stage", "command") for path in (ROOT / "stages").glob(f"*/{name}.py")}

every_module = pytest.mark.parametrize("module", sorted(MODULES))


def imports_of(source: str, package: str) -> Iterator[str]:
    """Yield every name that a module imports, wherever in it: ``from a.b import c`` is both a.b and a.b.c.

    Args:
        source: The module's text.
        package: Where its relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def imports_of_module(module: str) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(imports_of(path.read_text(encoding="utf-8"), package))


def stage_folder_of(module: str) -> str | None:
    """``stages.distill.data.example_images`` lies in distill; ``stages.components.student.student`` in none."""
    parts = module.split(".")
    return parts[1] if parts[0] == "stages" and len(parts) > 1 and parts[1] in STAGE_FOLDERS else None


def test_imports_of__sees_every_form() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n    from . import g\n    from ..h import i\n"
    assert set(imports_of(source, "top.sub")) == {"a.b", "c.d", "c.d.e", "top.sub", "top.sub.g", "top.h", "top.h.i"}


def test_modules__are_found() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(MAY_IMPORT)
    assert {"distill", "encode_teacher", "evaluate"} <= STAGE_FOLDERS


@every_module
def test_module__imports_only_what_lies_below_it(module: str) -> None:
    used = {name.partition(".")[0] for name in imports_of_module(module)}
    assert used & OURS <= MAY_IMPORT[module.partition(".")[0]]


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not module.startswith("stages")))
def test_module__outside_the_stages_never_imports_a_tensor_library(module: str) -> None:
    used = {name.partition(".")[0] for name in imports_of_module(module)}
    assert not used & TENSOR_LIBRARIES


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("stages.")))
def test_stage__imports_no_other_stage(module: str) -> None:
    used = {stage_folder_of(name) for name in imports_of_module(module)} - {None}
    assert used <= {stage_folder_of(module)}


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("stages.components.")))
def test_component__imports_no_stage(module: str) -> None:
    used = {name for name in imports_of_module(module) if name.startswith("stages.")}
    assert all(name.startswith("stages.components") for name in used)


def test_cli__needs_nothing_slow_to_say_what_it_can_do() -> None:
    code = (
        "import sys, click, cli\n"
        "def show(command, parent=None, name='protorkd'):\n"
        "    context = click.Context(command, parent=parent, info_name=name)\n"
        "    command.get_help(context)\n"
        "    for name, child in getattr(command, 'commands', {}).items():\n"
        "        show(child, context, name)\n"
        "show(cli.cli)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stdout.split())
    assert "stages" in loaded
    assert not loaded & (SLOW_TO_IMPORT | TABLES)
