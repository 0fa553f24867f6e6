"""Print names that options take, in groups, as text or as JSON."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import json_option, print_json
from pipeline.terminal import echo

_MOST_SHOWN = 120  # of a group; a word chooses among more
_WIDTH = 110


@dataclass(frozen=True)
class NameGroup:
    """Names that belong together.

    Args:
        title: What they have in common.
        usage: How an option takes one of them.
        names: The names, each with a sentence about it, or "".
        install: Command that installs what they need; "" where it is there.
    """

    title: str
    usage: str
    names: dict[str, str] = field(default_factory=dict)
    install: str = ""


def listing_options(what: str) -> list[click.Parameter]:
    """Make the arguments of a command that lists names: a WORD, and ``--json``."""
    return [click.Argument(["word"], required=False, default=""), json_option(what)]


def show_groups(groups: Sequence[NameGroup], *, word: str, as_json: bool) -> None:
    """Print groups of names, of which those with the word in them.

    Raises:
        ProtoRKDError: no name has the word in it.
    """
    chosen = [_with_word(group, word) for group in groups]
    if word and not any(group.names for group in chosen):
        raise ProtoRKDError(f"WORD must be part of a name; got {word!r}, which none has. Leave it out to see all.")
    if as_json:
        print_json(
            {group.title: {"usage": group.usage, "install": group.install, "names": group.names} for group in chosen}
        )
        return
    for group in chosen:
        if word and not group.names:
            continue
        missing = f" -- not installed: {group.install}" if group.install else ""
        echo(f"{group.title}: {group.usage}{missing}")
        echo(_shown(group) + "\n")


def _with_word(group: NameGroup, word: str) -> NameGroup:
    names = {name: text for name, text in group.names.items() if word.lower() in name.lower()}
    return NameGroup(group.title, group.usage, names, group.install)


def _shown(group: NameGroup) -> str:
    names = list(group.names)
    if len(names) > _MOST_SHOWN:
        return f"  {len(names):,} names, such as {', '.join(names[:3])}; a word after the command chooses among them."
    if any(group.names.values()):
        width = max(map(len, names))
        return "\n".join(f"  {name:{width}}  {text}" for name, text in group.names.items())
    return textwrap.fill(", ".join(names), _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
