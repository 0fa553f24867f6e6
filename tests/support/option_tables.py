"""Tables of options in docs/, made from the lines of the stages: ``python -m tests.support.option_tables`` writes them.

A table stands between ``<!-- options STAGE -->`` and ``<!-- end -->``.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from pipeline.options.declaration import click_options
from stages import STAGES

DOCS = Path(__file__).parents[2] / "docs"
BAR = r"\|"  # a table's cells would end at a plain one
_TABLE = re.compile(r"(<!-- options ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PARTS = (
    ("inputs", "What it reads, known by content"),
    ("params", "What changes the result"),
    ("runtime", "What changes only speed and place"),
)


def with_tables(text: str) -> str:
    """Make the tables of a page anew."""
    stages = {stage.name: stage for stage in STAGES}

    def fill(match: "re.Match[str]") -> str:
        return f"{match[1]}{_tables(stages[match[2]])}\n{match[3]}"

    return _TABLE.sub(fill, text)


def stages_with_tables(text: str) -> list[str]:
    """List the stages whose options a page lists."""
    return [found[2] for found in _TABLE.finditer(text)]


def _tables(stage: Any) -> str:
    tables = []
    for part, title in _PARTS:
        rows = [_row(field, line) for field, line in _lines(getattr(stage, part))]
        if rows:
            tables.append("\n".join([f"| {title} | Default | |", "|---|---|---|", *rows]))
    return "\n\n".join(tables)


def _lines(kind: type) -> list[tuple["dataclasses.Field[Any]", Any]]:
    return list(zip(dataclasses.fields(kind), click_options(kind), strict=True))


def _row(field: "dataclasses.Field[Any]", line: Any) -> str:
    choices = getattr(line.type, "choices", None)
    value = "" if line.is_flag or line.secondary_opts else f" {BAR.join(choices) if choices else line.metavar}"
    meaning = line.help.replace("|", BAR)
    return f"| `{line.opts[0]}{value}` | {_default(field.default)} | {meaning} |"


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def main() -> None:
    """Write the tables of all pages; name the pages that have changed."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        if (new := with_tables(text)) != text:
            path.write_text(new)
            sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
