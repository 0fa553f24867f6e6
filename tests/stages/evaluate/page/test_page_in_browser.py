"""The page of an evaluation as a browser shows it: a whole one, with real images, opened from the disk."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CHROMIUM, Opened, open_address, overflow
from page_samples import COLOURS, full_report, some_exhibits
from PIL import Image, ImageColor

from stages.evaluate.page.render import render_page

WIDTHS = (375, 1280)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    galleries, sheets, overlaps = some_exhibits(tmp_path_factory.mktemp("pictures"))
    return render_page(full_report(), galleries, sheets=sheets, overlaps=overlaps)


def open_page(browser: Any, html: str, folder: Path, *, width: int, scheme: str = "light") -> Opened:
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return open_address(browser, path.as_uri(), width=width, scheme=scheme, offline=True)


def screenshot(opened: Opened) -> np.ndarray:
    """Return every fourth pixel of the whole page, each way: (height / 4, width / 4, 3), int16."""
    with Image.open(io.BytesIO(opened.page.screenshot(full_page=True))) as shot:
        return np.asarray(shot.convert("RGB"))[::4, ::4].astype(np.int16)


def open_all_details(opened: Opened) -> None:
    for summary in opened.page.locator("summary").all():
        summary.click()


def test_page__loads_nothing_but_itself_and_complains_of_nothing(browser: Any, html: str, tmp_path: Path) -> None:
    opened = open_page(browser, html, tmp_path, width=1280)
    open_all_details(opened)
    assert [url for url in opened.requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert opened.complaints == []


def test_page__shows_every_image(browser: Any, html: str, tmp_path: Path) -> None:
    opened = open_page(browser, html, tmp_path, width=1280)
    widths = opened.page.evaluate("[...document.images].map(image => [image.naturalWidth, image.width, image.height])")
    assert len(widths) > 100
    assert np.min(widths) > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_page__is_no_wider_than_its_window(browser: Any, html: str, tmp_path: Path, width: int) -> None:
    opened = open_page(browser, html, tmp_path, width=width)
    assert overflow(opened) <= 0
    open_all_details(opened)
    assert overflow(opened) <= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_page__is_no_wider_for_names_without_a_space(browser: Any, html: str, tmp_path: Path, width: int) -> None:
    long = html.replace("discs", "d" * 150).replace("seagreen", "g" * 150).replace("/data/food", "/data" * 40)
    opened = open_page(browser, long, tmp_path, width=width)
    open_all_details(opened)
    assert overflow(opened) <= 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_page__looks_like_its_images_on_paper_of_either_scheme(
    browser: Any, html: str, tmp_path: Path, scheme: str, width: int
) -> None:
    pixels = screenshot(open_page(browser, html, tmp_path, width=width, scheme=scheme))
    assert pixels.shape[1] == -(-width // 4)
    paper = np.median(pixels.reshape(-1, 3), axis=0)
    assert (paper > 240).all() if scheme == "light" else (paper < 40).all()
    for colour in COLOURS:  # of the discs
        distance = np.abs(pixels - ImageColor.getrgb(colour)).max(axis=2)
        assert np.count_nonzero(distance < 16) > 200, colour


def test_page__opens_its_folded_parts_by_a_click(browser: Any, html: str, tmp_path: Path) -> None:
    opened = open_page(browser, html, tmp_path, width=1280)
    folded = opened.page.locator("details")
    assert folded.count() == 3  # sets that were not found, figures of the curves, all measures
    table = opened.page.get_by_text("discs/linear_probe_backbone/top1")
    assert not table.is_visible()
    open_all_details(opened)
    assert table.is_visible()
    assert opened.page.evaluate("[...document.querySelectorAll('details')].every(part => part.open)")


def test_page__has_text_and_height_in_every_section(browser: Any, html: str, tmp_path: Path) -> None:
    opened = open_page(browser, html, tmp_path, width=1280)
    sections = opened.page.locator("main > section").all()
    headings = [section.locator("h2").inner_text() for section in sections]
    assert headings == [
        *("1 task failed", "Retrieval", "Classification", "Analysis", "Over the checkpoints", "test in pictures"),
        *("discs in pictures", "Prototypes, in pictures of test", "Overlap with the training pictures"),
    ]
    for section in sections:
        assert len(section.inner_text()) > 40
        assert section.bounding_box()["height"] > 80


def test_page__draws_its_curves_and_maps(browser: Any, html: str, tmp_path: Path) -> None:
    opened = open_page(browser, html, tmp_path, width=1280)
    boxes = [drawing.bounding_box() for drawing in opened.page.locator("svg").all()]
    assert len(boxes) == 4
    assert min(box["width"] for box in boxes) > 200
    assert min(box["height"] for box in boxes) > 150
    assert opened.page.locator("svg[role=img][aria-label]").count() == 4
