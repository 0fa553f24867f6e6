"""Shell completion: references to artifacts, and names that are too many to be choices."""

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from data_schemas.errors import ProtoRKDError
from pipeline.terminal import echo

SHELLS = ("bash", "zsh", "fish")
_STORE = "store"
_SHOWN = 12  # digits of a fingerprint, as the log and ``status`` show them

_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_references(stage: str | None = None) -> _Complete:
    """Complete fingerprints of the store's artifacts, each with its stage and day; the newest come first.

    Args:
        stage: Complete only artifacts of this stage; None takes all.
    """

    def complete(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from pipeline.store.store import Store

        opened = context.params.get(_STORE)
        # Of a remote store only the local copies: pressing a key must not ask the network.
        known = Store(opened.root if isinstance(opened, Store) else Path(_STORE)).artifacts(stage)
        return [
            CompletionItem(each.record.fingerprint[:_SHOWN], help=f"{each.record.stage} {each.record.created[:16]}")
            for each in reversed(known)
            if each.record.fingerprint.startswith(begun)
        ]

    return complete


def complete_names(names: Callable[[], Iterable[str]]) -> _Complete:
    """Complete names, which are computed only when the shell asks."""
    return lambda _context, _parameter, begun: [CompletionItem(name) for name in names() if name.startswith(begun)]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, fingerprints and names.

    Add to ~/.bashrc: eval "$(protorkd completion bash)", and likewise for zsh; for fish, write it to
    ~/.config/fish/completions/protorkd.fish.
    """
    completes = get_completion_class(shell)
    assert completes is not None
    try:
        script = completes(context.find_root().command, {}, "protorkd", "_PROTORKD_COMPLETE").source()
    except RuntimeError as error:  # an old bash, or none
        raise ProtoRKDError(f"The shell must be one that click can complete in; {error}.") from error
    echo(script)
