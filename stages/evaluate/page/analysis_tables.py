"""Tables of the page's analysis: the shape of the space, its neighbourhoods, its clusters, and the teacher's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.components.report.numbers import figure
from stages.evaluate.page.tables import Cell, Column, Entry, Row, Table, make_cell, make_group


@dataclass(frozen=True)
class _Analysis:
    """What a task measures: of a whole set, and of each side of it under ``<measure>/<side>``; "" is the one side."""

    title: str
    whole: Mapping[str, Column]
    label: str = ""
    sides: tuple[str, ...] = ("",)
    by_side: Mapping[str, Column] = field(default_factory=dict)


_ANALYSES = {
    "geometry": _Analysis(
        title="Shape of the space",
        whole={
            "modality_gap": Column("Modality gap", "distance of the centre of the images from that of the captions"),
            "alignment": Column(
                "Alignment", "mean squared distance of a caption and its image, from 0, the best, to 4"
            ),
        },
        label="Of the",
        sides=("images", "captions"),
        by_side={
            "self_similarity": Column("Self-similarity", "mean cosine of two different ones; 1 where all are the same"),
            "uniformity": Column("Uniformity", "how evenly they fill the sphere; the lower the better, 0 at worst"),
            "feature_std": Column("Feature spread", "mean standard deviation of a dimension; 0 where all are the same"),
            "effective_rank": Column("Effective rank", "how many dimensions are in use"),
        },
    ),
    "neighbourhoods": _Analysis(
        title="Agreement with the teacher",
        whole={
            "neighbour_overlap@": Column(
                "Shared neighbours", "of the images nearest to an image, the percentage that its captions share"
            ),
            "similarity_spearman": Column(
                "Rank correlation", "of the cosines of images with those of their captions, from \N{MINUS SIGN}1 to 1"
            ),
            "cka": Column("CKA", "likeness of the two spaces, turned as may be: 1 at most, 0 where they share nothing"),
        },
    ),
    "clustering": _Analysis(
        title="Clusters",
        whole={
            "ari": Column("ARI", "adjusted Rand index of clusters and classes: 1 where they are the same, 0 by chance"),
            "ami": Column("AMI", "adjusted mutual information of the two, on the same scale"),
        },
        label="Of the",
        sides=("classes", "clusters"),
        by_side={
            "silhouette": Column(
                "Silhouette", "how clearly each image belongs to its own group, from \N{MINUS SIGN}1 to 1"
            ),
            "calinski_harabasz": Column(
                "Calinski-Harabasz", "spread between groups over spread within; the higher the better"
            ),
            "davies_bouldin": Column("Davies-Bouldin", "size of groups over their distance; 0 is the best"),
        },
    ),
    "sts": _Analysis(
        title="Similarity of captions, by the teacher",
        whole={
            "spearman": Column(
                "Spearman", "rank correlation of the cosines of pairs of captions with the scores that people gave them"
            ),
            "pearson": Column("Pearson", "linear correlation of the two"),
        },
    ),
}


def analysis_tables(report: Mapping[str, Any]) -> list[Table]:
    """Make the tables that describe a student's space without judging it, as far as it was measured."""
    tables = (
        _analysis_table(analysis, [entry for entry in report["sets"] if entry["task"] == task])
        for task, analysis in _ANALYSES.items()
    )
    return [table for table in tables if table.groups]


def _analysis_table(analysis: _Analysis, entries: list[Entry]) -> Table:
    groups = [
        make_group(
            entry,
            whole=[_cell(entry, measure) for measure in analysis.whole],
            rows=[
                Row(side, (), "", tuple(_cell(entry, measure, side=side) for measure in analysis.by_side))
                for side in analysis.sides
            ],
        )
        for entry in entries
    ]
    return Table(
        title=analysis.title,
        whole_columns=tuple(analysis.whole.values()),
        label=analysis.label,
        columns=tuple(analysis.by_side.values()),
        groups=tuple(groups),
    )


def _cell(entry: Entry, measure: str, *, side: str = "") -> Cell | None:
    if measure.endswith("@"):  # with any number of neighbours
        named = [key for key in entry["metrics"] if key.startswith(measure)]
        return make_cell(entry, named[0]) if named else None
    return make_cell(entry, f"{measure}/{side}" if side else measure, figure)
