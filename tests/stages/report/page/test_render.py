"""The page of a report: it says what the report says, escaped, with and without images."""

import re

import pytest
from report_samples import HOSTILE, full_report

from stages.components.report.thumbnails import stand_in
from stages.report.page.render import render_page, shown_pairs

IMAGE = "data:image/jpeg;base64,AAAA"
SHOWN = dict.fromkeys(range(56), IMAGE)


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_page__says_what_the_report_says() -> None:
    words = words_of(render_page(full_report(), SHOWN))
    for said in (
        "20,000 pairs, before training",
        "all-MiniLM-L6-v2, 384 dimensions",
        "timm:tf_efficientnet_lite0",
        "36.2 % chance 0.53 %, on 1,000 held-out pairs",
        "13.8 % of the 10 nearest of each image",
        "3.21 % 642 of 20,000, word for word",
        "5.40 % cosine 0.95 or above, estimated",
        "0.70 0.10 % 24.7 % mean 0.520 77.0 % mean 20.5",
        "Balance of 1,024 prototypes 0.860",
        "180 of 20,000, by SHA-256",
        "do first",
        "captions 0.97, images \N{MINUS SIGN}0.06",
        "the text model knows no word of it",
    ):
        assert said in words


def test_page__escapes_what_it_is_given() -> None:
    page = render_page(full_report(), SHOWN)
    assert HOSTILE not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; &#34;quoted&#34;" in page


def test_page__shows_every_image_once() -> None:
    page = render_page(full_report(), SHOWN)
    assert shown_pairs(full_report()) == list(range(56))
    assert page.count(f'src="{IMAGE}"') == page.count("<img") == 56
    assert "grey square" not in page


def test_page__tells_of_images_that_are_gone() -> None:
    some = render_page(full_report(), {**SHOWN, 3: stand_in(), 9: stand_in()})
    assert "In 2 places a grey square stands for an image" in words_of(some)
    none = render_page(full_report(), {})
    assert "The images are not shown: they were not found" in words_of(none)
    assert "<img" not in none
    assert none.count("<figcaption>") == 56


@pytest.mark.parametrize("part", ["images", "coverage", "examples"])
def test_page__leaves_out_what_was_not_measured(part: str) -> None:
    report = full_report()
    del report[part]
    if part == "images":
        del report["together"], report["baseline"]
    titles = {"images": "Images and features", "coverage": "Coverage", "examples": "The extremes, in images"}
    page = render_page(report, SHOWN)
    assert titles[part] not in page
    assert titles[part] in render_page(full_report(), SHOWN)


def test_page__names_the_fewest_covered_queries_first() -> None:
    page = render_page(full_report(), SHOWN)
    assert page.index("unheard") < page.index("120</td>")
    many = [{"query": f"query {number}", "num_captions": number, "nearest": "a", "cosine": 0.5} for number in range(40)]
    assert "The 30 with the fewest; all 40 stand in report.json" in render_page(full_report(coverage=many), SHOWN)


def test_page__does_not_claim_equal_files_where_none_is_known() -> None:
    report = full_report()
    report["images"]["num_equal"] = None
    assert "not known: the vectors came without files" in render_page(report, SHOWN)
