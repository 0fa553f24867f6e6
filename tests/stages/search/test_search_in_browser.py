"""Search in a real browser: typed into, clicked, given an image; from the disk and from the local server."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, Opened, open_address, overflow
from searching import Embedded, opened_search
from workbench import Cli

from stages.search.server import SearchServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]
WIDTHS = (375, 1280)


@pytest.fixture(scope="module")
def page(embedded_session: Embedded, own_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    image = embedded_session.images.root / embedded_session.images.images[0]
    words = ("--text", "red circle", "--picture", image, "--page", path)
    Cli(own_store)("search", "--device", "cpu", *words)
    return path


@pytest.fixture(scope="module")
def server(own_store: Path) -> Iterator[SearchServer]:
    opened = opened_search(own_store)
    with SearchServer(opened, [opened.ask_text("red circle", top=3)], top=5, port=0) as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def names(opened: Opened) -> list[str]:
    return [image.get_attribute("alt") for image in opened.page.locator("#results img").all()]


def title(opened: Opened, expected: str) -> None:
    opened.page.get_by_role("heading", name=expected, exact=True).wait_for()


def wait_for_images(opened: Opened) -> None:
    opened.page.wait_for_function(
        "[...document.querySelectorAll('#results img')].every(image => image.complete && image.naturalWidth > 8)"
    )


def test_page__finds_by_words_that_captions_hold(browser: Any, page: Path) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    title(opened, "Some of the images")
    before = names(opened)
    opened.page.fill("#words", "squ gre")
    assert opened.page.locator("#suggestions button").all_inner_texts() == ["green square", "grey square"]
    opened.page.get_by_role("button", name="grey square").click()
    title(opened, "Nearest to “grey square”")
    assert names(opened) != before
    wait_for_images(opened)
    assert not opened.page.locator("#suggestions").is_visible()


def test_page__shows_the_neighbours_of_an_image_that_is_clicked(browser: Any, page: Path) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    chosen = names(opened)[2]
    opened.page.locator("#results button").nth(2).click()
    title(opened, f"Nearest to {chosen}")
    assert chosen not in names(opened)
    scores = [float(text) for text in opened.page.locator("#results b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    opened.page.go_back()
    title(opened, "Some of the images")


def test_page__shows_what_its_queries_find(browser: Any, page: Path, embedded_session: Embedded) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    opened.page.get_by_role("button", name="000.jpg", exact=True).click()
    title(opened, "Nearest to 000.jpg")
    assert names(opened)[0] == embedded_session.images.images[0]
    opened.page.get_by_role("button", name="red circle", exact=True).click()
    title(opened, "Nearest to “red circle”")


def test_page__is_used_by_keyboard_alone(browser: Any, page: Path) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.type("blue circle")
    opened.page.keyboard.press("Enter")
    title(opened, "Nearest to “blue circle”")
    first = names(opened)[0]
    opened.page.locator("#results button").first.focus()
    opened.page.keyboard.press("Enter")
    title(opened, f"Nearest to {first}")


def test_page__says_where_no_caption_holds_the_words(browser: Any, page: Path) -> None:
    opened = open_address(browser, page.as_uri(), width=1280, offline=True)
    opened.page.fill("#words", "zebra")
    opened.page.keyboard.press("Enter")
    assert "No caption on this page" in opened.page.locator("#status").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_page__asks_nobody_and_fits_its_window(browser: Any, page: Path, width: int) -> None:
    opened = open_address(browser, page.as_uri(), width=width, scheme="dark", offline=True)
    opened.page.locator("#results button").first.click()
    opened.page.locator("#asked-picture").wait_for()
    assert overflow(opened) <= 0
    assert {url for url in opened.requests if not url.startswith("data:")} == {page.as_uri()}
    assert opened.complaints == []


def test_server__finds_what_is_typed_then_what_is_clicked(
    browser: Any, server: SearchServer, embedded_session: Embedded
) -> None:
    opened = open_address(browser, server.url, width=1280)
    title(opened, "Some of the images")
    before = names(opened)
    opened.page.fill("#words", "purple stripe")
    opened.page.keyboard.press("Enter")
    title(opened, "Nearest to “purple stripe”")
    shown = names(opened)
    assert shown != before
    wait_for_images(opened)
    opened.page.locator("#results button").first.click()
    title(opened, f"Nearest to {shown[0]}")
    assert shown[0] not in names(opened)
    opened.page.go_back()
    title(opened, "Nearest to “purple stripe”")
    assert opened.complaints == []
    assert all(url.startswith((server.url, "data:")) for url in opened.requests)


@pytest.mark.parametrize("width", WIDTHS)
def test_server__takes_an_image(browser: Any, server: SearchServer, embedded_session: Embedded, width: int) -> None:
    opened = open_address(browser, server.url, width=width)
    name = embedded_session.images.images[9]
    opened.page.set_input_files("#file", embedded_session.images.root / name)
    title(opened, "Nearest to your image")
    assert names(opened)[0] == name
    assert opened.page.locator("#asked-picture").is_visible()
    assert overflow(opened) <= 0
    assert opened.complaints == []


def test_server__takes_an_image_that_is_dropped(browser: Any, server: SearchServer, embedded_session: Embedded) -> None:
    opened = open_address(browser, server.url, width=1280)
    name = embedded_session.images.images[4]
    data = list((embedded_session.images.root / name).read_bytes())
    opened.page.evaluate(
        """(data) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([new Uint8Array(data)], "dropped.jpg", { type: "image/jpeg" }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: dropped }));
        }""",
        data,
    )
    title(opened, "Nearest to your image")
    assert names(opened)[0] == name


def test_server__shows_an_error_where_the_results_would_be(browser: Any, server: SearchServer) -> None:
    opened = open_address(browser, server.url, width=1280)
    opened.page.fill("#words", "xyzzy")
    opened.page.keyboard.press("Enter")
    opened.page.locator("#status.failed").wait_for()
    assert "zero vector" in opened.page.locator("#status").inner_text()
