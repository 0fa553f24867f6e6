"""Print texts that come from data: a caption or a name may hold what a terminal takes for an order."""

import errno
import re
from collections.abc import Sequence

import click

from data_schemas.errors import ProtoRKDError

# Control characters of C0 and C1 but for tab and newline, marks that turn or break lines, and halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write out what a terminal would obey or show in another place, as ``\u001b``; lines stay lines.

    Example:
        >>> printable("a red \x1b[31mcircle")
        'a red \\u001b[31mcircle'
    """
    return _UNSAFE.sub(_written_out, text)


def printable_line(text: str) -> str:
    r"""Write out as `printable` does, and tabs and newlines, too, so that a name cannot pass for a line of ours.

    Example:
        >>> printable_line("circle.jpg\nError: none")
        'circle.jpg\\u000aError: none'
    """
    return printable(re.sub(r"[\t\n]", _written_out, text))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text as `printable` writes it: the one way in which commands print.

    Args:
        text: Text of one or more lines; JSON stays the same JSON.
        err: Whether it goes to stderr.
        nl: Whether a newline follows.

    Raises:
        ProtoRKDError: the disk that it goes to is full or broken; a closed pipe ends the command quietly.
    """
    try:
        click.echo(printable(text), err=err, nl=nl)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        name = "stderr" if err else "stdout"
        raise ProtoRKDError(
            f"{name} must take what is printed; got {error.strerror or error}. Send it elsewhere, and run the same "
            "command again: what was whole is kept."
        ) from error


def aligned(rows: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    """Lay rows out as lines with aligned columns.

    Args:
        rows: Cells of each row, the header among them.
        num_left: Number of columns, from the first, that stand at the left; the others stand at the right.

    Example:
        >>> aligned([["seed", "score"], ["7", "50.00"]], num_left=1)
        ['seed  score', '7     50.00']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _written_out(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
