"""Tables of the page: measures by set and task, with chance and interval beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_schemas.evaluation_report import RETRIEVAL, interval_size
from stages.components.report import numbers as page_numbers
from stages.evaluate.task_names import headline

Entry = Mapping[str, Any]

DIRECTIONS = {"text_to_image": "caption → image", "image_to_text": "image → caption"}
CLASS_TASKS = {
    "zero_shot": "zero-shot",
    "knn": "nearest neighbours",
    "knn_backbone": "nearest neighbours",
    "linear_probe": "linear probe",
    "linear_probe_backbone": "linear probe",
}
CLASS_MEASURES = {"top1": "Top-1", "top5": "Top-5", "mean_per_class": "Class mean"}
ON_BACKBONE = "on the backbone"


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to 100 with a mark at chance and a whisker over the interval, where these are known."""

    share: float
    chance: float | None
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        value: Value, as text.
        interval: Its 95 % interval, or "".
        num_pictures: Images or pairs that the interval rests on; 0 without one.
        chance: What guessing gives, or "".
        bar: Bar of a percentage, or None.
        is_headline: Whether it is the figure by which the set is usually judged.
    """

    value: str
    interval: str
    num_pictures: int
    chance: str
    bar: Bar | None
    is_headline: bool


@dataclass(frozen=True)
class Column:
    """A measure, with a sentence on what it means; "" where its title says it."""

    title: str
    meaning: str = ""


@dataclass(frozen=True)
class Row:
    """Figures of one task or side of a set, with notes on the settings that they were measured with."""

    label: str
    notes: tuple[str, ...]
    warning: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Group:
    """A set: figures of the whole set, and rows of its tasks or sides."""

    set_name: str
    size: str
    rejected: int
    whole: tuple[Cell | None, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table with a group of rows per set.

    Attributes:
        title: Title of the table.
        whole_columns: Measures of a whole set.
        label: What the rows of a set differ in; "" where each has one row.
        columns: Measures of each row.
        groups: Groups of rows, one per set.
    """

    title: str
    whole_columns: tuple[Column, ...]
    label: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]

    @property
    def meanings(self) -> tuple[Column, ...]:
        """The measures that need an explanation."""
        return tuple(column for column in (*self.whole_columns, *self.columns) if column.meaning)


MIXED_MEASURES = {
    **{f"own_image@{k}": Column(f"Own image in {k}") for k in (1, 5, 10)},
    "image_share@10": Column(
        "Images in 10", "share of images among the first ten; the nearer to their share of the index, the fairer"
    ),
}


def result_tables(report: Mapping[str, Any]) -> list[Table]:
    """Make the tables that a student is judged by: retrieval and classification, as far as they were measured."""
    sets = report["sets"]
    tables = (
        _retrieval_table(sets, RETRIEVAL, "Retrieval"),
        _retrieval_table(sets, "query_bank", "Retrieval, calibrated by a query bank"),
        _mixed_table(sets),
        _class_table(sets),
    )
    return [table for table in tables if table.groups]


def make_cell(entry: Entry, measure: str, write: page_numbers.Write | None = None) -> Cell | None:
    """Make the cell of a figure in a report's entry; None where the entry lacks it: the table shows a dash.

    Args:
        entry: Entry of a set and a task in the report.
        measure: Key of the measure in the entry.
        write: Function that turns numbers into text; by default as percentages, and a rank as a rank.
    """
    if measure not in entry["metrics"]:
        return None
    is_rank = measure.endswith("median_rank")
    is_share = write is None and not is_rank  # nothing else is a percentage
    write = write or (page_numbers.rank if is_rank else page_numbers.share)
    value, chance = entry["metrics"][measure], entry.get("chance", {}).get(measure)
    interval = entry.get("intervals", {}).get(measure)
    ends = (interval["low"], interval["high"]) if interval else None
    return Cell(
        value=write(value),
        interval=page_numbers.interval(*ends, write) if ends else "",
        num_pictures=interval_size(interval) if interval else 0,
        chance="" if chance is None else write(chance),
        bar=Bar(value, chance, ends) if is_share else None,
        is_headline=measure == headline(entry),
    )


def size_of(entry: Entry) -> str:
    """Say how large a set is."""
    counted = ((entry.get(f"num_{what}"), what) for what in ("images", "captions", "classes", "pairs"))
    return ", ".join(f"{num:,} {what}" for num, what in counted if num)


def make_group(entry: Entry, *, whole: Sequence[Cell | None], rows: Sequence[Row]) -> Group:
    """Put a set's figures below its name."""
    return Group(
        set_name=entry["name"],
        size=size_of(entry),
        rejected=entry.get("rejected", 0),
        whole=tuple(whole),
        rows=tuple(rows),
    )


def _retrieval_table(sets: Sequence[Entry], task: str, title: str) -> Table:
    entries = [entry for entry in sets if entry["task"] == task]
    recalls = sorted({int(key.rpartition("@")[2]) for entry in entries for key in entry["metrics"] if "recall@" in key})
    measures = (*(f"recall@{k}" for k in recalls), "median_rank")
    whole = ("mean_recall",) if any("mean_recall" in entry["metrics"] for entry in entries) else ()
    groups = [
        make_group(
            entry,
            whole=[make_cell(entry, measure) for measure in whole],
            rows=[
                Row(
                    label,
                    _settings(entry) if direction == "text_to_image" else (),
                    "",
                    tuple(make_cell(entry, f"{direction}/{measure}") for measure in measures),
                )
                for direction, label in DIRECTIONS.items()
            ],
        )
        for entry in entries
    ]
    return Table(
        title=title,
        whole_columns=tuple(Column("Mean recall") for _ in whole),
        label="Direction",
        columns=(*(Column(f"R@{k}") for k in recalls), Column("Median rank")),
        groups=tuple(groups),
    )


def _mixed_table(sets: Sequence[Entry]) -> Table:
    entries = [entry for entry in sets if entry["task"] == "mixed"]
    groups = [
        make_group(
            entry,
            whole=(),
            rows=[
                Row(
                    scores, _settings(entry), "", tuple(make_cell(entry, f"{scores}/{name}") for name in MIXED_MEASURES)
                )
                for scores in ("raw", "calibrated")
            ],
        )
        for entry in entries
    ]
    return Table("Images and captions in one index", (), "Scores", tuple(MIXED_MEASURES.values()), tuple(groups))


def _class_table(sets: Sequence[Entry]) -> Table:
    entries = [entry for entry in sets if entry["task"] in CLASS_TASKS]
    measures = [measure for measure in CLASS_MEASURES if any(measure in entry["metrics"] for entry in entries)]
    by_set: dict[str, list[Entry]] = {}
    for entry in entries:
        by_set.setdefault(entry["name"], []).append(entry)
    order = list(CLASS_TASKS)
    groups = [
        make_group(
            tasks[0],
            whole=(),
            rows=[
                Row(
                    label=CLASS_TASKS[entry["task"]],
                    notes=_settings(entry),
                    warning="" if entry.get("converged", True) else "did not converge",
                    cells=tuple(make_cell(entry, measure) for measure in measures),
                )
                for entry in sorted(tasks, key=lambda entry: order.index(entry["task"]))
            ],
        )
        for tasks in by_set.values()
    ]
    return Table(
        title="Classification",
        whole_columns=(),
        label="Task",
        columns=tuple(Column(CLASS_MEASURES[measure]) for measure in measures),
        groups=tuple(groups),
    )


_SETTINGS: dict[str, Callable[[Any], str]] = {
    "templates": lambda templates: f"{len(templates):,} prompt{'s' if len(templates) > 1 else ''} a class",
    "query_prompt": "{!r} before each caption".format,
    "k": "k {:,}".format,
    "temperature": "temperature {:g}".format,
    "l2_weight": "L2 weight {:.2g}".format,
    "num_train_images": "{:,} training images".format,
}


def _settings(entry: Entry) -> tuple[str, ...]:
    place = (ON_BACKBONE,) if entry["task"].endswith("_backbone") else ()
    return (*place, *(write(entry[key]) for key, write in _SETTINGS.items() if entry.get(key) is not None))
