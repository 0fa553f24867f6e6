"""The page of a report as a browser shows it, opened from the disk."""

from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, open_address, overflow
from PIL import Image
from report_samples import full_report

from stages.components.report.thumbnails import thumbnail
from stages.report.page.render import render_page, shown_pairs

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1280, "light"), (1280, "dark")])
def test_page__fits_loads_nothing_and_complains_of_nothing(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    report, path = full_report(), tmp_path / "report.html"
    images = {pair: thumbnail(Image.new("RGB", (40, 30), (4 * pair, 90, 120))) for pair in shown_pairs(report)}
    path.write_text(render_page(report, images), encoding="utf-8")
    opened = open_address(browser, path.as_uri(), width=width, scheme=scheme, offline=True)
    for summary in opened.page.locator("summary").all():
        summary.click()
    assert overflow(opened) == 0
    assert [url for url in opened.requests if not url.startswith("data:")] == [path.as_uri()]
    assert opened.complaints == []
    assert min(opened.page.evaluate("[...document.images].map(image => image.naturalWidth)")) == 40
