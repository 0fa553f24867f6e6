"""Report on a set of prototypes: the number of captions of each, and the captions nearest to some of them."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, StrictUndefined

from data_schemas.prototypes import UNASSIGNED, Prototypes
from stages.components.report.prototype_examples import GROUPS, NearestCaptions, choose_examples, cosine_sums

CAPTIONS_PER_PROTOTYPE = 8


def build_report(
    prototypes: Prototypes,
    *,
    captions: pa.Array,
    embeddings_digest: str,
    num_fitted: int,
    mean_cosines: Sequence[float],
) -> dict[str, Any]:
    """Summarise prototypes and their captions, without time, host or path: equal prototypes give equal reports.

    Args:
        prototypes: Prototypes, at least one of them with a caption.
        captions: All distinct captions, by row.
        embeddings_digest: Digest of the artifact that the captions come from.
        num_fitted: Number of captions that k-means was fitted on.
        mean_cosines: Mean cosine of these captions with their nearest centroid, for each iteration.
    """
    sizes = prototypes.sizes
    filled = sizes[sizes > 0]
    is_known = prototypes.assignment != UNASSIGNED
    sums = cosine_sums(prototypes)
    means = sums / np.maximum(sizes, 1)
    nearest = NearestCaptions(prototypes)
    return {
        "embeddings": embeddings_digest,
        "dim": prototypes.centroids.shape[1],
        "num_captions": len(prototypes.assignment),
        "num_zero_captions": int((~is_known).sum()),
        "num_fitted_captions": num_fitted,
        "num_prototypes": len(sizes),
        "num_empty": int((sizes == 0).sum()),
        "sizes": sorted(sizes.tolist(), reverse=True),
        "smallest_size": int(filled.min()),
        "median_size": float(np.median(filled)),
        "largest_size": int(filled.max()),
        "mean_cosine": float(sums.sum() / filled.sum()),
        "mean_cosine_by_iteration": list(mean_cosines),
        "examples": [
            {
                "group": group,
                "prototype": number,
                "size": int(sizes[number]),
                "mean_cosine": float(means[number]),
                "captions": [
                    {"row": row, "caption": captions[row].as_py(), "cosine": float(prototypes.cosines[row])}
                    for row in nearest.rows(number, CAPTIONS_PER_PROTOTYPE)
                ],
            }
            for group, numbers in choose_examples(sizes, means).items()
            for number in numbers
        ],
    }


def render_page(report: Mapping[str, Any]) -> str:
    """Render the page of a report: one HTML file that loads nothing and runs nothing; all captions are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cosine=_cosine, thousands="{:,}".format)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.render(report=report, bins=size_bins(report["sizes"]), groups=GROUPS)


def size_bins(sizes: Sequence[int]) -> list[tuple[str, int]]:
    """Count prototypes by size: none, 1, 2 to 3, 4 to 7 and so on, each range twice as wide as the one before.

    Example:
        >>> size_bins([5, 4, 1, 1, 0])
        [('0', 1), ('1', 2), ('2 to 3', 0), ('4 to 7', 2)]
    """
    widths = [int(size).bit_length() for size in sizes]
    labels = ["0", "1", *(f"{1 << (width - 1):,} to {(1 << width) - 1:,}" for width in range(2, max(widths) + 1))]
    first = 0 if 0 in widths else 1
    return [(labels[width], widths.count(width)) for width in range(first, max(widths) + 1)]


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
