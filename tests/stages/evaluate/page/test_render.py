import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_samples import full_report, some_exhibits
from PIL import Image

from stages.components.report.thumbnails import stand_in, thumbnail
from stages.evaluate.page.gallery import (
    CaptionQuery,
    ClassAccuracy,
    ClassExample,
    ConfusedClass,
    Confusion,
    ContactSheet,
    EmbeddingMap,
    FoundCaption,
    FoundImage,
    Gallery,
    ImageQuery,
    OverlapExample,
)
from stages.evaluate.page.render import render_page
from stages.evaluate.page.scatter_svg import draw_map

MAGENTA = (255, 0, 255)
VOID_TAGS = {"meta", "img", "br"}
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
def image() -> str:
    return thumbnail(Image.new("RGB", (96, 96), MAGENTA))


def some_galleries(image: str, caption: str = "two dogs play", path: str = "a/1.jpg") -> list[Gallery]:
    own = FoundImage(image, caption, path, 0.31, is_true=True)
    other = FoundImage(image, "a red bus", "a/2.jpg", -0.02, is_true=False)
    captions = (FoundCaption(caption, 0.4, is_true=True), FoundCaption("a red bus", 0.1, is_true=False))
    return [
        Gallery(
            "test",
            caption_queries=(CaptionQuery(caption, own, 1, (own, other)), CaptionQuery("a bus", own, 1234, (other,))),
            image_queries=(ImageQuery(image, caption, path, 2, captions),),
        ),
        Gallery(
            "cifar10",
            class_examples=(ClassExample(image, path, "dog", "dog"), ClassExample(image, path, "cat", "dog")),
            class_accuracies=(ClassAccuracy("cat", 20.0, 1000), ClassAccuracy("dog", 80.0, 1000)),
        ),
    ]


def test_page__shows_lineage_measures_and_chance(image: str) -> None:
    text = " ".join(Page(render_page(REPORT, some_galleries(image))).text.split())
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


def test_page__names_the_head_of_a_student_of_features_and_what_it_stands_on() -> None:
    head = {"kind": "mlp", "width": 2048, "dropout": 0.7, "feature_noise": 1.0}
    known = {"head": head, "backbone_digest": "ab" * 32, "features_digest": "cd" * 32}
    text = words(render_page({**REPORT, "student": REPORT["student"] | known}, []))
    assert "Head mlp, 2,048 wide, dropout 0.7, feature noise 1 Frozen backbone abab" in text
    assert "Features trained on cdcd" in text
    plain = {"kind": "linear", "width": 0, "dropout": 0.0}
    text = words(render_page({**REPORT, "student": REPORT["student"] | known | {"head": plain}}, []))
    assert "Head linear Frozen backbone" in text
    assert "Frozen backbone" not in words(render_page(REPORT, []))


def test_page__names_vectors_by_another_tool_and_no_backbone_where_there_is_none() -> None:
    student = REPORT["student"] | {
        "backbone": "",
        "image_size": 0,
        "head": {"kind": "gated", "width": 8, "dropout": 0.0},
    }
    vectors = {"image_vectors": "/home/me/test-*.parquet", "image_vectors_digest": "ef" * 32}
    page = render_page({**REPORT, "student": student | {"backbone_digest": "", "features_digest": ""}, **vectors}, [])
    assert "Head on given vectors, taught by all-MiniLM-L6-v2" in words(page)
    assert (
        "Student vectors by another tool → 384 dimensions Head gated, 8 wide Vectors of images test-*.parquet efef"
        in (words(page))
    )
    assert "/home/me" not in page


def test_page__shows_queries_and_what_they_find(image: str) -> None:
    html = render_page(REPORT, some_galleries(image))
    page = Page(html)
    text = " ".join(page.text.split())
    for shown in ("two dogs play rank 1", "rank 1,234", "0.31 · true", "\N{MINUS SIGN}0.02", "dog ✓", "is cat"):
        assert shown in text
    frames = [(attributes.get("class") or "").split() for attributes in page.all("figure")]
    assert sum("true" in classes and "sought" not in classes for classes in frames) == 2  # one image, one example
    assert text.index("dog 80.0") < text.index("cat 20.0")


def test_page__is_a_whole_document_that_loads_and_runs_nothing(image: str) -> None:
    html = render_page(REPORT, some_galleries(image))
    assert html.startswith("<!doctype html>\n<html lang=")
    page = Page(html)
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in page.elements}
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    assert not re.search(r"url\(|@import|https?:", html)


def test_page__says_in_words_what_each_image_shows(image: str) -> None:
    images = Page(render_page(REPORT, some_galleries(image))).all("img")
    assert len(images) == 8
    assert {shown["alt"] for shown in images} == {"two dogs play", "a red bus", "dog", "cat"}
    assert all(shown["src"] == image for shown in images)


def test_page__gives_every_table_header_a_scope(image: str) -> None:
    headers = Page(render_page(REPORT, some_galleries(image))).all("th")
    assert headers
    assert all(header.get("scope") in {"col", "rowgroup"} for header in headers)


def everything_called(image: str, name: str) -> dict[str, Any]:
    """Arguments of a page on which every text that comes from outside is the name."""
    report = full_report()
    report["teacher"]["name"] = report["student"]["backbone"] = report["student"]["checkpoint"] = name
    for entry in (*report["sets"], *report["overlap"]):
        entry["name"] = name
    report["metrics"] = {f"{name}/text_to_image/recall@10": 1.0, f"{name}/mean_recall": 2.0}
    report["checkpoints"] = [
        {"name": f"{number}{name}", "epoch": None, "metrics": report["metrics"]} for number in range(2)
    ]
    report["failures"] = [{"name": name, "task": name, "checkpoint": name, "reason": name}]
    report["absent"] = [{"name": name, "places": [name], "reason": name}]
    example = ClassExample(image, name, name, name)
    drawn = draw_map(np.eye(4)[:, :2], groups=[0] * 4, group_names=[name], title=name)
    found_image = FoundImage(image, name, name, 0.5, is_true=False)
    gallery = Gallery(
        name,
        caption_queries=(CaptionQuery(name, found_image, 2, (found_image,)),),
        caption_hits=(CaptionQuery(name, found_image, 1, (found_image,)),),
        caption_misses=(CaptionQuery(name, found_image, 9, (found_image,)),),
        image_queries=(ImageQuery(image, name, name, 1, (FoundCaption(name, 0.1, is_true=True),)),),
        class_examples=(example,),
        class_accuracies=tuple(ClassAccuracy(f"{number}{name}", 1.0, 1) for number in range(31)),
        confusions=(Confusion(ClassAccuracy(name, 1.0, 1), (ConfusedClass(name, 50.0),), (example,)),),
        embedding_map=EmbeddingMap(drawn, "pca", "cluster", 4),
    )
    sheet = ContactSheet("largest", 3, 1, 0.5, ((name, 0.5),), (found_image,))
    copies = OverlapExample(image, name, image, name, exact=False, distance=1)
    return {"report": report, "galleries": [gallery], "sheets": {name: [sheet]}, "overlaps": {name: [copies]}}


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", '" onerror="alert(1)', "</style></title>{{ 7 * 7 }}"])
def test_page__escapes_what_strangers_wrote(image: str, attack: str) -> None:
    html = render_page(**everything_called(image, attack))
    page = Page(html)
    assert attack not in html
    assert not page.all("script")
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    peaceful = Page(render_page(**everything_called(image, "harmless")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in peaceful.elements]
    assert page.text.count(attack) == peaceful.text.count("harmless") > 70  # escaped, and still readable


def test_page__is_the_same_each_time(image: str) -> None:
    assert render_page(REPORT, some_galleries(image)) == render_page(REPORT, some_galleries(image))


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
            ("true", "paper"),
            ("bad", "card"),
            ("near", "card"),
        ),
    ):
        high, low = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)  # WCAG 2.2, level AA


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_page__says_what_failed_and_what_was_not_found() -> None:
    text = words(render_page(full_report(), []))
    assert "1 task failed" in text
    assert "pets linear_probe epoch_2 A set must have images." in text
    assert "1 set not found food101 No such folder. Looked at: /data/food-101 /data/food101" in text
    text = words(render_page({**full_report(), "failures": [], "absent": []}, []))
    assert "failed" not in text
    assert "not found" not in text


def test_page__shows_intervals_beside_the_figures() -> None:
    html = render_page(full_report(), [])
    text = words(html)
    assert "checkpoint last" in text.lower()
    assert "29.3 27.8\N{EN DASH}30.8 chance 22.2 caption → image" in text  # the mean of both ways stands before them
    assert "41.5\N{EN DASH}44.5 chance 10.0" in text
    assert '<span class="whisker" style="left:27.80%;width:3.00%"></span>' in html
    assert "nearest neighbours k 20 · temperature 0.07 · 80 training images" in text
    assert "linear probe on the backbone · L2 weight 0.1 did not converge" in text


def test_page__emphasises_the_figure_by_which_a_set_is_judged() -> None:
    html = render_page(full_report(), [])
    headlines = re.findall(r'class="cell headline" data-column="([^"]+)"', html)
    assert headlines == ["Mean recall", *["Class mean"] * 5]


def test_page__explains_the_measures_of_its_analysis() -> None:
    text = words(render_page(full_report(), []))
    assert "Modality gap distance of the centre of the images from that of the captions" in text
    assert "\N{MINUS SIGN}3.10" in text
    assert "1,379 pairs 0.740" in text
    bare = {**full_report(), "sets": full_report()["sets"][:2]}
    assert "Modality gap" not in words(render_page(bare, []))
    assert "Analysis" not in words(render_page(bare, []))


def test_page__draws_curves_where_there_are_two_checkpoints() -> None:
    report = full_report()
    page = Page(render_page(report, []))
    labels = [attributes["aria-label"] or "" for attributes in page.all("svg")]
    assert labels[0].startswith("test: Recall, %, at the last checkpoint: mean recall ")
    assert labels[1].startswith("discs: Class mean, %, at the last checkpoint: zero-shot ")
    assert "epoch_1 epoch_2 epoch_4 test mean recall" in " ".join(page.text.split())
    assert not Page(render_page({**report, "checkpoints": report["checkpoints"][:1]}, [])).all("svg")


def test_page__lists_every_measure_with_interval_and_number() -> None:
    text = words(render_page(full_report(), []))
    assert "test/mean_recall 29.30 27.80\N{EN DASH}30.80 24" in text
    assert "discs/clustering/ari 0.6100 \N{MINUS SIGN}0.8900 to 2.11 40" in text


def test_page__folds_the_accuracies_of_many_classes(image: str) -> None:
    def folds(num: int) -> int:
        accuracies = tuple(ClassAccuracy(f"class {number}", 50.0, 1) for number in range(num))
        return len(Page(render_page(REPORT, [Gallery("discs", class_accuracies=accuracies)])).all("details"))

    assert folds(31) == folds(30) + 1


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    galleries, sheets, overlaps = some_exhibits(tmp_path_factory.mktemp("pictures"))
    return render_page(full_report(), galleries, sheets=sheets, overlaps=overlaps)


def test_page__has_its_sections_in_order(full_page: str) -> None:
    headings = [
        *("1 task failed", "1 set not found", "Retrieval", "Classification", "Analysis", "Over the checkpoints"),
        *("test in pictures", "Captions that hit", "Captions that miss", "Captions, and the images they find"),
        *("Images, and the captions they find", "discs in pictures", "Accuracy of each class"),
        *("What the worst classes are taken for", "Prototypes, in pictures of test", "Overlap with the training"),
        "All measures",
    ]
    text = words(full_page)
    places = [text.index(f" {heading}") for heading in headings]
    assert places == sorted(places)


def test_page__shows_what_the_worst_classes_are_taken_for(full_page: str) -> None:
    assert "seagreen 0.0 % of 10 images right crimson 100.0" in words(full_page)
    assert "goldenrod 50.0 % of 10 images right royalblue 50.0 goldenrod 50.0" in words(full_page)


def test_page__shows_prototypes_maps_and_copies(full_page: str) -> None:
    text = words(full_page)
    assert "The largest What most captions are about. Prototype 0 " in text
    assert "All 24 images as the student sees them, one dot each, laid out by PCA" in text
    assert "the same file 0.png = 4.png" in text
    assert "3 bits apart 1.png = 5.png" in text
    assert len(Page(full_page).all("svg")) == 4  # two of curves, two maps


def test_page__shows_no_section_without_content() -> None:
    text = words(render_page({**REPORT, "sets": [], "metrics": {}}, [], sheets={"test": ()}, overlaps={"test": ()}))
    for heading in ("Retrieval", "Analysis", "Over the checkpoints", "Prototypes", "Overlap", "in pictures"):
        assert heading not in text


def test_page__counts_images_that_have_vanished(image: str) -> None:
    own = FoundImage(stand_in(), "two dogs", "gone.jpg", 0.3, is_true=True)
    html = render_page(REPORT, [Gallery("test", caption_hits=(CaptionQuery("two dogs", own, 1, (own,)),))])
    assert "In 2 places a grey square stands for a picture that could no longer be read" in words(html)
    assert Page(html).all("img")[0]["alt"] == "no longer readable: two dogs"
    assert "grey square" not in words(render_page(REPORT, some_galleries(image)))


def test_page__of_many_sets_stays_small(image: str) -> None:
    long = "data:image/jpeg;base64," + "A" * 20_000
    examples = tuple(ClassExample(long, "path", "dog", "dog") for _ in range(40))
    galleries = [Gallery(f"set {number}", class_examples=examples) for number in range(30)]
    html = render_page(REPORT, galleries)
    assert 3_000_000 < len(html) < 4_000_000
    assert len(Page(html).all("img")) == 30 * 5


def test_page__of_everything_is_the_same_each_time(tmp_path: Path, full_page: str) -> None:
    galleries, sheets, overlaps = some_exhibits(tmp_path)
    assert render_page(full_report(), galleries, sheets=sheets, overlaps=overlaps) == full_page
