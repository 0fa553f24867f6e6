"""The page of an evaluation: its measures beside chance, and pictures of what the student finds. One HTML file."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from stages.images import open_image

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

DIRECTIONS = {"text_to_image": "caption → image", "image_to_text": "image → caption"}
TASKS = {"zero_shot": "zero-shot", "knn": "nearest neighbours"}
MEASURES = {"top1": "Top-1", "top5": "Top-5", "mean_per_class": "Class mean"}


@dataclass(frozen=True)
class FoundImage:
    """An image that a caption found.

    Attributes:
        image: data URI, from `thumbnail`.
        caption: what it shows, read out in its place.
        path: where it lies, shown on hover.
        similarity: cosine with the caption.
        is_true: whether the caption describes it.
    """

    image: str
    caption: str
    path: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class FoundCaption:
    """A caption that an image found, its cosine with the image, and whether it describes it."""

    caption: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class CaptionQuery:
    """A caption that asks for images.

    Attributes:
        caption: the query.
        true_image: the image that it describes.
        rank: place of that image among all, from 1.
        found: the nearest images, best first.
    """

    caption: str
    true_image: FoundImage
    rank: int
    found: tuple[FoundImage, ...]


@dataclass(frozen=True)
class ImageQuery:
    """An image that asks for captions.

    Attributes:
        image: data URI, from `thumbnail`.
        caption: what it shows, read out in its place.
        path: where it lies, shown on hover.
        rank: place of the first caption that describes it, from 1.
        found: the nearest captions, best first.
    """

    image: str
    caption: str
    path: str
    rank: int
    found: tuple[FoundCaption, ...]


@dataclass(frozen=True)
class ClassExample:
    """An image with its true class and the class that the student takes it for."""

    image: str
    path: str
    true_class: str
    predicted_class: str


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 accuracy of one class, a percentage, and how many images, from 1, it rests on."""

    class_name: str
    top1: float
    num_images: int


@dataclass(frozen=True)
class Gallery:
    """What there is to see of one set: queries of a retrieval set, or examples of a zero-shot set."""

    set_name: str
    caption_queries: tuple[CaptionQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    class_examples: tuple[ClassExample, ...] = ()
    class_accuracies: tuple[ClassAccuracy, ...] = ()


@dataclass(frozen=True)
class _Cell:
    """One number of a table, with chance beside it where chance is known; ``share`` of 100 fills the bar."""

    value: str
    chance: str
    share: float | None
    chance_share: float | None


@dataclass(frozen=True)
class _Row:
    set_name: str
    size: str
    rejected: int
    label: str
    cells: tuple[_Cell | None, ...]


@dataclass(frozen=True)
class _Table:
    title: str
    label: str
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]


def render_page(report: Mapping[str, Any], galleries: Sequence[Gallery]) -> str:
    """Write the page of an evaluation: one HTML file that loads nothing, runs nothing and holds no time or host.

    All text of the report and of the galleries is escaped; captions and paths come from strangers.

    Args:
        report: the evaluation's report, as it is written to JSON.
        galleries: the pictures, in the order in which they are shown.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, similarity=_similarity, thousands="{:,}".format)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
    return template.render(
        report=report,
        tables=[table for table in (_retrieval_table(report), _classification_table(report)) if table.rows],
        galleries=galleries,
        chance_top1={
            entry["name"]: entry.get("chance", {}).get("top1")
            for entry in report["sets"]
            if entry["task"] == "zero_shot"
        },
    )


def choose_queries(num: int, total: int, seed: int = 0) -> list[int]:
    """Choose rows spread evenly over a set, whatever the student makes of them: the same ones for every student.

    Args:
        num: how many rows; all of them where there are fewer.
        total: number of rows in the set.
        seed: another seed shifts the choice within its even steps.

    Example:
        >>> choose_queries(4, 2000)
        [250, 750, 1250, 1750]
    """
    num = min(num, total)
    shift = (0.5 + seed * GOLDEN_RATIO) % 1
    return [int((place + shift) * total / num) for place in range(num)]


def thumbnail(image: Path | Image.Image, size: int = 96) -> str:
    """Make a small JPEG of an image, as a data URI. Equal pixels give equal bytes.

    Args:
        image: a file, or a loaded image; what is transparent turns white.
        size: longer side in pixels at most; smaller images stay as they are.

    Raises:
        ImageRejected: the file cannot be read as an image.
    """
    shrunk = _on_white(open_image(image) if isinstance(image, Path) else image)
    shrunk.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    # Pasted into a fresh image, so that no comment or profile of the file travels along.
    bare = Image.new("RGB", shrunk.size)
    bare.paste(shrunk)
    buffer = io.BytesIO()
    bare.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _retrieval_table(report: Mapping[str, Any]) -> _Table:
    sets = [entry for entry in report["sets"] if entry["task"] == "retrieval"]
    recalls = sorted({int(key.rpartition("@")[2]) for entry in sets for key in entry["metrics"] if "recall@" in key})
    rows = [
        _Row(
            set_name=entry["name"],
            size=f"{entry['num_images']:,} images, {entry['num_captions']:,} captions",
            rejected=entry.get("rejected", 0),
            label=label,
            cells=tuple(
                _cell(entry, f"{direction}/{measure}") for measure in (*(f"recall@{k}" for k in recalls), "median_rank")
            ),
        )
        for entry in sets
        for direction, label in DIRECTIONS.items()
    ]
    columns = (*(f"R@{k}" for k in recalls), "Median rank")
    return _Table(title="Retrieval", label="Direction", columns=columns, rows=tuple(rows))


def _classification_table(report: Mapping[str, Any]) -> _Table:
    sets = [entry for entry in report["sets"] if entry["task"] in TASKS]
    measures = [measure for measure in MEASURES if any(measure in entry["metrics"] for entry in sets)]
    rows = [
        _Row(
            set_name=entry["name"],
            size=f"{entry['num_images']:,} images, {entry['num_classes']:,} classes",
            rejected=entry.get("rejected", 0),
            label=TASKS[entry["task"]],
            cells=tuple(_cell(entry, measure) for measure in measures),
        )
        for entry in sets
    ]
    columns = tuple(MEASURES[measure] for measure in measures)
    return _Table(title="Classification", label="Task", columns=columns, rows=tuple(rows))


def _cell(entry: Mapping[str, Any], measure: str) -> _Cell | None:
    """Return None where the set has no such measure: the table leaves a dash."""
    if measure not in entry["metrics"]:
        return None
    value, chance = entry["metrics"][measure], entry.get("chance", {}).get(measure)
    is_share = not measure.endswith("median_rank")  # a rank has no bar: it is no part of 100
    write = _number if is_share else _rank
    return _Cell(
        value=write(value),
        chance="" if chance is None else write(chance),
        share=value if is_share else None,
        chance_share=chance if is_share else None,
    )


def _number(value: float) -> str:
    """Write three figures, so that 0.05 and 98.7 both say something: chance is often far below one percent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 or value == 0 else f"{value:.2f}"


def _rank(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _similarity(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
