"""Write the page of an evaluation, one HTML file: measures beside chance, and images of what the student finds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template

from data_schemas.evaluation_report import interval_size, metric_prefix
from stages.components.report import numbers as page_numbers
from stages.components.report.html import page_template
from stages.components.report.prototype_examples import GROUPS
from stages.components.report.thumbnails import stand_in
from stages.evaluate.page.analysis_tables import analysis_tables
from stages.evaluate.page.curves_svg import find_curves
from stages.evaluate.page.gallery import ContactSheet, Gallery, OverlapExample
from stages.evaluate.page.size_budget import MAX_IMAGE_CHARS, image_chars, images_in, thin_out
from stages.evaluate.page.tables import result_tables

_MANY_CLASSES = 30


class _Measure(NamedTuple):
    """A row of the list of all measures; interval and number of images where they are known."""

    name: str
    value: str
    interval: str
    num_pictures: int


def _plural(num: int, noun: str) -> str:
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


FILTERS: Mapping[str, Callable[..., object]] = {
    "share": page_numbers.share,
    "similarity": page_numbers.similarity,
    "thousands": "{:,}".format,
    "plural": _plural,
}
"""Filters of the templates of this page, and of others that use its macros."""


def render_page(
    report: Mapping[str, Any],
    galleries: Sequence[Gallery],
    *,
    sheets: Mapping[str, Sequence[ContactSheet]] | None = None,
    overlaps: Mapping[str, Sequence[OverlapExample]] | None = None,
) -> str:
    """Write the page of an evaluation: one HTML file that loads nothing, runs nothing and holds no time or host.

    All text of the report and of the images is escaped; captions and paths are not to be trusted. Galleries of many
    sets show fewer examples each, so that the page stays small.

    Args:
        report: Report of the evaluation, as it is written to JSON; ``checkpoints``, ``failures``, ``absent`` and
            ``overlap`` may be missing from it.
        galleries: Galleries, in the order in which they are shown.
        sheets: Contact sheets of prototypes, by the name of the set whose images they show.
        overlaps: Pairs of an evaluation and a training image, by the name of the evaluated set.
    """
    sheets, overlaps = sheets or {}, overlaps or {}
    rest = MAX_IMAGE_CHARS - image_chars((sheets, overlaps))
    galleries = thin_out(galleries, max_chars=rest)
    return _template().render(
        report=report,
        head=_describe_head(report["student"].get("head", {})),
        vectors=list(_given_vectors(report)),
        failures=report.get("failures", ()),
        absent=report.get("absent", ()),
        overlap=report.get("overlap", ()),
        tables=result_tables(report),
        analyses=analysis_tables(report),
        curves=find_curves(report),
        galleries=galleries,
        sheets=sheets,
        overlaps=overlaps,
        groups=GROUPS,
        measures=list(_measures(report)),
        stand_in=stand_in(),
        num_gone=list(images_in((galleries, sheets, overlaps))).count(stand_in()),
        many_classes=_MANY_CLASSES,
        chance_top1={
            entry["name"]: entry.get("chance", {}).get("top1")
            for entry in report["sets"]
            if entry["task"] == "zero_shot"
        },
    )


def _template() -> Template:
    return page_template(__package__, "page.html", FILTERS)


def _describe_head(head: Mapping[str, Any]) -> str:
    """Say what a head on features is, and what training did to it and to them; "" for none."""
    if not head:
        return ""
    width = f", {head['width']:,} wide" if head["width"] else ""
    changes = ("dropout", "feature_noise", "feature_mixup")
    return ", ".join(
        [head["kind"] + width, *(f"{name.replace('_', ' ')} {head[name]:g}" for name in changes if head.get(name))]
    )


def _given_vectors(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield of vectors by another tool whose they are, their file without its folder, and their digest."""
    for key, noun in (("image_vectors", "Vectors of images"), ("caption_vectors", "Vectors of texts")):
        if key in report:
            yield noun, Path(report[key]).name, report.get(f"{key}_digest", "")


def _measures(report: Mapping[str, Any]) -> Iterator[_Measure]:
    known = {
        f"{metric_prefix(entry)}/{measure}": interval
        for entry in report["sets"]
        for measure, interval in entry.get("intervals", {}).items()
    }
    for name, value in report["metrics"].items():
        interval = known.get(name)
        written = page_numbers.interval(interval["low"], interval["high"], page_numbers.precise) if interval else ""
        yield _Measure(name, page_numbers.precise(value), written, interval_size(interval) if interval else 0)
