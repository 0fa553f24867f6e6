import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from workbench import Pairs

import cli

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
)
STARTS = ("python cli.py ", "torchrun ", "protorkd ")


def commands_of(page: str) -> list[str]:
    """The commands that a page shows in its blocks, in their order, each on one line."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line.split(" #")[0].strip() for line in lines if line.startswith(STARTS)]
    return found


def documented_commands() -> list[str]:
    found = [command for page in PAGES for command in commands_of(page)]
    starts = "|".join(map(re.escape, STARTS))
    for page in PAGES:
        found += re.findall(rf"`((?:{starts})[^`]+)`", (ROOT / page).read_text())
    return sorted({command for command in found if "..." not in command})


def documented_targets() -> list[str]:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    return sorted(set(re.findall(r"\bmake ([a-z]+)\b(?= *(?:#|`|$))", text, re.MULTILINE)))


def test_readme__documents_every_stage() -> None:
    text = "\n".join(documented_commands())
    for command in ("encode-teacher", "distill", "evaluate", "why", "status", "verify", "gc"):
        assert f"python cli.py {command}" in text


@pytest.mark.parametrize("command", documented_commands())
def test_readme__commands_are_understood(command: str) -> None:
    arguments = shlex.split(re.sub(r"^.*?(cli\.py|protorkd) ", "", command))
    group: click.Command = cli.cli
    context = click.Context(group, info_name="cli.py")
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
    [code] = list(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    names: dict[str, Any] = {}
    exec(code.replace("store/encode-teacher/<fingerprint>", str(folder)), names)
    captions = names["captions"].to_pydict()["caption"]
    assert names["embeddings"].shape[0] == len(captions)
    pairs = names["pairs"].to_pydict()
    assert tuple(pairs["image"]) == encoded.images
    assert tuple(captions[row] for row in pairs["caption_row"]) == encoded.captions
