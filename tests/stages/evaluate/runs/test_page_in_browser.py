"""The page of students as a browser shows it, opened from the disk."""

from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, open_address, overflow
from workbench import Cli

from pipeline.store.store import Artifact

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]


@pytest.fixture(scope="module")
def page(students_session: tuple[Path, list[Artifact]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "runs.html"
    Cli(students_session[0]).run("runs", "--page", path)
    return path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_page__fits_its_window_and_complains_of_nothing(browser: Any, page: Path, scheme: str, width: int) -> None:
    opened = open_address(browser, page.as_uri(), width=width, scheme=scheme, offline=True)
    assert overflow(opened) <= 0
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [page.as_uri()]
    boxes = [drawing.bounding_box() for drawing in opened.page.locator("svg").all()]
    assert len(boxes) == 4
    assert min(box["width"] for box in boxes) > 280
    for section in opened.page.locator("main > section").all():
        assert section.bounding_box()["height"] > 80


def test_page__shows_every_row_and_interval(browser: Any, page: Path) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    assert opened.page.locator("table").first.locator("tbody tr").count() == 5
    for bar in opened.page.locator(".forest").all():
        box, inner = bar.bounding_box(), bar.locator(".whisker").bounding_box()
        assert box["x"] - 1 <= inner["x"]
        assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
