"""Write the page of a report, one HTML file: what to do next, figures, and images of the extremes."""

from collections.abc import Iterator, Mapping
from typing import Any

from stages.components.report import numbers
from stages.components.report.html import page_template
from stages.components.report.thumbnails import stand_in

_MANY_QUERIES = 30


def shown_pairs(report: Mapping[str, Any]) -> list[int]:
    """List the pairs whose images the page of a report shows."""
    return [entry["pair"] for entry in _examples(report)]


def render_page(report: Mapping[str, Any], thumbnails: Mapping[int, str]) -> str:
    """Write the page of a report: one HTML file that loads nothing, runs nothing and holds no time or host.

    All text of the report is escaped; captions and paths are not to be trusted.

    Args:
        report: Report as it is written to JSON.
        thumbnails: Data URIs of the images by pair, as many as are at hand.
    """
    pairs = shown_pairs(report)
    template = page_template(
        __package__,
        "page.html",
        {
            "share": numbers.share,
            "percent": lambda value: numbers.share(100 * value),
            "figure": numbers.figure,
            "rank": numbers.rank,
            "similarity": numbers.similarity,
            "thousands": "{:,}".format,
            "plural": lambda num, noun: f"{num:,} {noun}{'' if num == 1 else 's'}",
        },
    )
    return template.render(
        report=report,
        captions=report["captions"],
        images=report.get("images"),
        baseline=report.get("baseline"),
        together=report.get("together"),
        examples=report.get("examples", {}),
        coverage=sorted(report.get("coverage", ()), key=lambda entry: entry["num_captions"]),
        many_queries=_MANY_QUERIES,
        thumbnails=thumbnails,
        stand_in=stand_in(),
        num_gone=sum(thumbnails.get(pair, stand_in()) == stand_in() for pair in pairs),
        num_shown=len(pairs),
    )


def _examples(report: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    examples = report.get("examples", {})
    yield from (*examples.get("farthest", ()), *examples.get("nearest", ()))
    for kind in ("differing_images", "differing_captions"):
        for entry in examples.get(kind, ()):
            yield from entry["pairs"]
