import base64
import copy
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.evaluate.page import (
    CaptionQuery,
    ClassAccuracy,
    ClassExample,
    FoundCaption,
    FoundImage,
    Gallery,
    ImageQuery,
    choose_queries,
    render_page,
    thumbnail,
)

MAGENTA = (255, 0, 255)
VOID_TAGS = {"meta", "img"}
RECALLS = {f"{way}/recall@{k}": 12.345 for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
REPORT: dict[str, Any] = {
    "schema_version": 1,
    "student": {
        "fingerprint": "0123456789abcdef" * 4,
        "backbone": "resnet18",
        "image_size": 64,
        "embedding_dim": 384,
        "losses": ["infonce=1", "proto-rkd=0.5"],
    },
    "teacher": {"name": "all-MiniLM-L6-v2", "identity": "fedcba9876543210" * 4},
    "sets": [
        {
            "name": "test",
            "task": "retrieval",
            "num_images": 2000,
            "num_captions": 10000,
            "metrics": {**RECALLS, "text_to_image/median_rank": 41.0, "image_to_text/median_rank": 37.5},
            "chance": {"text_to_image/recall@1": 0.05},
            "rejected": 3,
        },
        {
            "name": "cifar10",
            "task": "zero_shot",
            "num_images": 10000,
            "num_classes": 10,
            "metrics": {"top1": 51.5, "top5": 91.5, "mean_per_class": 51.4},
            "chance": {"top1": 10.0, "top5": 50.0, "mean_per_class": 10.0},
            "rejected": 0,
        },
        {
            "name": "cifar10",
            "task": "knn",
            "num_images": 10000,
            "num_classes": 10,
            "metrics": {"top1": 61.5, "top5": 95.5},
            "chance": {},
            "rejected": 0,
        },
    ],
    "metrics": {"test/text_to_image/recall@1": 12.345, "cifar10/zero_shot/top1": 51.5},
}


class Page(HTMLParser):
    """Every element of a page with its attributes, and the visible text; fails on tags that do not pair."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def picture() -> str:
    return thumbnail(Image.new("RGB", (96, 96), MAGENTA))


def some_galleries(picture: str, caption: str = "two dogs play", path: str = "a/1.jpg") -> list[Gallery]:
    own = FoundImage(picture, caption, path, 0.31, is_true=True)
    other = FoundImage(picture, "a red bus", "a/2.jpg", -0.02, is_true=False)
    captions = (FoundCaption(caption, 0.4, is_true=True), FoundCaption("a red bus", 0.1, is_true=False))
    return [
        Gallery(
            "test",
            caption_queries=(CaptionQuery(caption, own, 1, (own, other)), CaptionQuery("a bus", own, 1234, (other,))),
            image_queries=(ImageQuery(picture, caption, path, 2, captions),),
        ),
        Gallery(
            "cifar10",
            class_examples=(ClassExample(picture, path, "dog", "dog"), ClassExample(picture, path, "cat", "dog")),
            class_accuracies=(ClassAccuracy("cat", 20.0, 1000), ClassAccuracy("dog", 80.0, 1000)),
        ),
    ]


def test_page__shows_lineage_measures_and_chance(picture: str) -> None:
    text = " ".join(Page(render_page(REPORT, some_galleries(picture))).text.split())
    for shown in (
        "resnet18 at 64 px, taught by all-MiniLM-L6-v2",
        "infonce=1 + proto-rkd=0.5",
        "0123456789abcdef",
        "fedcba9876543210",
        "2,000 images, 10,000 captions 3 rejected",
        "caption → image 12.3 chance 0.05",
        "41 image → caption",
        "37.5",
        "10,000 images, 10 classes",
        "zero-shot 51.5 chance 10.0",
        "nearest neighbours 61.5 95.5 \N{EN DASH}",
        "test/text_to_image/recall@1 12.35",
    ):
        assert shown in text


def test_page__shows_queries_and_what_they_find(picture: str) -> None:
    html = render_page(REPORT, some_galleries(picture))
    page = Page(html)
    text = " ".join(page.text.split())
    for shown in ("two dogs play rank 1", "rank 1,234", "0.31 · true", "\N{MINUS SIGN}0.02", "dog ✓", "is cat"):
        assert shown in text
    frames = [(attributes.get("class") or "").split() for attributes in page.all("figure")]
    assert sum("true" in classes and "sought" not in classes for classes in frames) == 2  # one image, one example
    assert text.index("dog 80.0") < text.index("cat 20.0")


def test_page__is_a_whole_document_that_loads_and_runs_nothing(picture: str) -> None:
    html = render_page(REPORT, some_galleries(picture))
    assert html.startswith("<!doctype html>\n<html lang=")
    page = Page(html)
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in page.elements}
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    assert not re.search(r"url\(|@import|https?:", html)


def test_page__says_in_words_what_each_image_shows(picture: str) -> None:
    images = Page(render_page(REPORT, some_galleries(picture))).all("img")
    assert len(images) == 8
    assert {image["alt"] for image in images} == {"two dogs play", "a red bus", "dog", "cat"}
    assert all(image["src"] == picture for image in images)


def test_page__gives_every_table_header_a_scope(picture: str) -> None:
    headers = Page(render_page(REPORT, some_galleries(picture))).all("th")
    assert headers
    assert all(header.get("scope") in {"col", "rowgroup"} for header in headers)


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", '" onerror="alert(1)', "</style></title>{{ 7 * 7 }}"])
def test_page__escapes_what_strangers_wrote(picture: str, attack: str) -> None:
    report = copy.deepcopy(REPORT)
    report["teacher"]["name"] = report["student"]["backbone"] = report["sets"][0]["name"] = attack
    report["metrics"][attack] = 1.0
    galleries = [
        *some_galleries(picture, caption=attack, path=attack),
        Gallery(
            attack,
            class_examples=(ClassExample(picture, attack, attack, attack),),
            class_accuracies=(ClassAccuracy(attack, 1.0, 1),),
        ),
    ]
    html = render_page(report, galleries)
    page = Page(html)
    assert attack not in html
    assert not page.all("script")
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    assert page.text.count(attack) >= 8  # escaped, and still readable


def test_page__is_the_same_each_time(picture: str) -> None:
    assert render_page(REPORT, some_galleries(picture)) == render_page(REPORT, some_galleries(picture))


def test_page__needs_neither_galleries_nor_sets() -> None:
    page = Page(render_page({**REPORT, "sets": [], "metrics": {}}, []))
    assert not page.all("img")
    assert len(page.all("table")) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page__has_colours_that_can_be_read(scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", render_page(REPORT, []), re.DOTALL)
    colours = {
        name: value
        for block in blocks[: 1 if scheme == "light" else 2]
        for name, value in re.findall(r"--([\w-]+): (#\w{6})", block)
    }

    def luminance(colour: str) -> float:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, paper in (
        *((ink, paper) for ink in ("ink", "soft") for paper in ("paper", "card")),
        *(
            ("accent", "paper"),
            ("true", "card"),
            ("true", "true-paper"),
            ("near", "near-paper"),
            ("soft", "miss-paper"),
        ),
    ):
        high, low = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)  # WCAG 2.2, level AA


@pytest.mark.parametrize(
    ("num", "total", "chosen"), [(4, 2000, [250, 750, 1250, 1750]), (3, 3, [0, 1, 2]), (12, 2, [0, 1]), (5, 0, [])]
)
def test_choose_queries__spreads_them_evenly(num: int, total: int, chosen: list[int]) -> None:
    assert choose_queries(num, total) == chosen


@pytest.mark.parametrize("seed", range(5))
def test_choose_queries__takes_one_from_each_stretch(seed: int) -> None:
    assert [row // 100 for row in choose_queries(12, 1200, seed=seed)] == list(range(12))
    assert choose_queries(12, 1200, seed=seed) == choose_queries(12, 1200, seed=seed)


def decode(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(
    ("before", "after"), [((400, 200), (96, 48)), ((10, 400), (2, 96)), ((30, 20), (30, 20)), ((4000, 1), (96, 1))]
)
def test_thumbnail__fits_the_size_and_keeps_the_shape(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = Image.new("RGB", before)
    assert decode(thumbnail(image)).size == after
    assert image.size == before  # the caller's image stays whole


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnail__takes_any_mode(mode: str) -> None:
    assert decode(thumbnail(Image.new(mode, (8, 8)))).mode == "RGB"


def test_thumbnail__shows_white_where_the_image_is_transparent() -> None:
    assert decode(thumbnail(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))).getpixel((4, 4)) == (255, 255, 255)


def test_thumbnail__depends_on_the_pixels_alone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), MAGENTA).save(tmp_path / "plain.png")
    with Image.open(tmp_path / "plain.png") as plain:
        plain.info["comment"] = b"<script>"
        assert thumbnail(plain) == thumbnail(tmp_path / "plain.png") == thumbnail(Image.new("RGB", (8, 8), MAGENTA))


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page__shows_all_its_pictures_in_a_browser(picture: str, tmp_path: Path, width: int) -> None:
    page, screenshot = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render_page(REPORT, some_galleries(picture)), encoding="utf-8")
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={width},4000", f"--screenshot={screenshot}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(screenshot) as shot:
        assert shot.size == (width, 4000)
        pixels = shot.convert("RGB").getcolors(maxcolors=2**24)
    assert pixels is not None
    shown = sum(count for count, colour in pixels if max(abs(a - b) for a, b in zip(colour, MAGENTA, strict=True)) < 8)
    assert shown > 8 * 60 * 60  # eight pictures, none smaller than 60 x 60
