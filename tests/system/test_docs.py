"""The pages of docs/: their tables of options are the stages' own, and the messages that they explain are said."""

import re
from pathlib import Path

import pytest
from option_tables import DOCS, stages_with_tables, with_tables

from stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted(DOCS.glob("*.md"))
_INTERNAL = {"draw-scenes"}  # the demo's own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_docs__tables_of_options_are_what_the_stages_say(page: Path) -> None:
    text = page.read_text()
    assert with_tables(text) == text, "write them by make docs"


def test_docs__have_a_page_for_every_stage() -> None:
    listed = [name for page in PAGES for name in stages_with_tables(page.read_text())]
    assert sorted(listed) == sorted({stage.name for stage in STAGES} - _INTERNAL)


def test_docs__explain_messages_that_are_said() -> None:
    code = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for folder in ("data_schemas", "pipeline", "stages")
        for path in (ROOT / folder).rglob("*.py")
    )
    messages = re.findall(r"^\| `([^`]+)`", (DOCS / "faq.md").read_text(), re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        pieces = [
            piece.strip()
            for piece in re.split(r"\b(?:FILE|FOLDER|STORE|N|loss|encode-teacher)\b|'filepath'|\.\.\.", message)
        ]
        longest = max(pieces, key=len)
        assert longest in code, message
