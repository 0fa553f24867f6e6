import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from workbench import Pairs

import cli
import protorkd
from pipeline.options.values import options_of
from pipeline.workflow.graph import nodes_of
from pipeline.workflow.run_file import read_run_file
from stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md"))),
)
STARTS = ("python cli.py ", "torchrun ", "protorkd ")


def commands_of(page: str) -> list[str]:
    """Return the commands that a page shows in its blocks, in their order, each on one line."""
    commands = []
    for block in blocks(page, "bash"):
        lines = block.replace("\\\n", " ").splitlines()
        commands += [line.split(" #")[0].strip() for line in lines if line.startswith(STARTS)]
    return commands


def documented_commands() -> list[str]:
    commands = [command for page in PAGES for command in commands_of(page)]
    starts = "|".join(map(re.escape, STARTS))
    for page in PAGES:
        commands += re.findall(rf"`((?:{starts})[^`]+)`", (ROOT / page).read_text())
    return sorted({command for command in commands if "..." not in command})


def documented_targets() -> list[str]:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    return sorted(set(re.findall(r"\bmake ([a-z]+)\b(?= *(?:#|`|$))", text, re.MULTILINE)))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def documented_calls() -> Iterator[ast.Call]:
    """Yield every call of a function of ``protorkd``, wherever in the pages."""
    for code in [code for page in PAGES for code in blocks(page, "python")]:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and re.fullmatch(r"protorkd\.\w+", ast.unparse(node.func)):
                yield node


def test_readme__documents_every_stage() -> None:
    text = "\n".join(documented_commands())
    for command in ("encode-teacher", "distill", "evaluate", "why", "status", "verify", "gc"):
        assert f"python cli.py {command}" in text


@pytest.mark.parametrize("command", documented_commands())
def test_readme__commands_are_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("training.toml").write_text(blocks("docs/configuration.md", "toml")[0])
    arguments = shlex.split(re.sub(r"^.*?(cli\.py|protorkd) ", "", command))
    group: click.Command = cli.cli
    context = click.Context(group, info_name="cli.py", obj=STAGES)
    while isinstance(group, click.Group):
        name, command_found, arguments = group.resolve_command(context, arguments)
        assert command_found is not None, name
        group = command_found
        context = click.Context(group, info_name=name, parent=context)
    # Raises a usage error for an option that is not there, or a value that is not allowed.
    group.parse_args(context, arguments)


def test_readme__make_targets_exist() -> None:
    targets = documented_targets()
    assert {"demo", "test"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme__links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_readme__lines_that_read_the_store_do_so(encoded: Pairs, store: Path) -> None:
    [folder] = (store / "encode-teacher").glob("[!.]*")
    [code] = [code for code in blocks("README.md", "python") if "zarr.open_array" in code]
    names: dict[str, Any] = {}
    exec(code.replace("store/encode-teacher/<fingerprint>", str(folder)), names)
    captions = names["captions"].to_pydict()["caption"]
    assert names["embeddings"].shape[0] == len(captions)
    pairs = names["pairs"].to_pydict()
    assert tuple(pairs["image"]) == encoded.images
    assert tuple(captions[row] for row in pairs["caption_row"]) == encoded.captions


def test_readme__calls_of_python_are_understood() -> None:
    calls = list(documented_calls())
    assert {"protorkd.distill", "protorkd.load_student"} <= {ast.unparse(call.func) for call in calls}
    for call in calls:
        name = ast.unparse(call.func).removeprefix("protorkd.")
        inspect.signature(getattr(protorkd, name)).bind(
            *call.args, **{each.arg: each for each in call.keywords if each.arg}
        )
        stage = {stage.name.replace("-", "_"): stage for stage in STAGES}.get(name)
        own = options_of(stage) if stage else {}
        literals = {
            each.arg: ast.literal_eval(each.value)
            for each in call.keywords
            if isinstance(each.value, ast.Constant | ast.List)
        }
        for option in own.keys() & literals.keys():
            own[option].read(literals[option], called=option)


def test_readme__files_of_options_are_understood(tmp_path: Path) -> None:
    texts = [text for page in PAGES for text in blocks(page, "toml")]
    assert texts
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        assert nodes_of(read_run_file(path, stages=STAGES))
