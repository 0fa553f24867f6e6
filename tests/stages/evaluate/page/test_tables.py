from typing import Any

import pytest
from page_samples import full_report, some_entry

from stages.evaluate.page.analysis_tables import analysis_tables
from stages.evaluate.page.tables import make_cell, result_tables, size_of
from stages.evaluate.task_names import headline


def test_cell__of_a_percentage_has_a_bar_and_of_a_rank_none() -> None:
    entry = full_report()["sets"][0]
    cell = make_cell(entry, "text_to_image/recall@1")
    assert cell is not None
    assert (cell.value, cell.interval, cell.num_pictures, cell.chance) == ("12.0", "10.5\N{EN DASH}13.5", 24, "4.17")
    assert cell.bar is not None
    assert (cell.bar.share, cell.bar.chance, cell.bar.ends) == (12.0, 4.17, (10.5, 13.5))
    rank = make_cell(entry, "text_to_image/median_rank")
    assert rank is not None
    assert rank.bar is None
    assert rank.value == "12"


def test_cell__without_interval_or_chance_leaves_them_out() -> None:
    entry = {"name": "x", "task": "knn", "metrics": {"top1": 50.0}}
    cell = make_cell(entry, "top1")
    assert cell is not None
    assert (cell.interval, cell.chance, cell.num_pictures) == ("", "", 0)
    assert cell.bar is not None
    assert (cell.bar.chance, cell.bar.ends) == (None, None)
    assert make_cell(entry, "top5") is None


@pytest.mark.parametrize(
    ("entry", "measure"),
    [
        ({"task": "retrieval", "metrics": {}}, "mean_recall"),
        ({"task": "knn", "metrics": {"top1": 1.0}}, "top1"),
        (
            {"task": "knn", "metrics": {"top1": 1.0, "mean_per_class": 1.0}, "headline": "mean_per_class"},
            "mean_per_class",
        ),
        ({"task": "knn", "metrics": {"top1": 1.0}, "headline": "mean_per_class"}, "top1"),
    ],
)
def test_headline__is_a_measure_that_the_entry_has(entry: dict[str, Any], measure: str) -> None:
    assert headline(entry) == measure


def test_size_of__says_what_was_counted() -> None:
    assert size_of({"num_images": 2000, "num_captions": 10000}) == "2,000 images, 10,000 captions"
    assert size_of({"num_pairs": 1379}) == "1,379 pairs"


def test_class_table__orders_the_tasks_of_a_set_below_its_name() -> None:
    report = full_report()
    report["sets"] = [*reversed(report["sets"]), some_entry("other", "knn", {"top1": 1.0}, num_images=3)]
    table = result_tables(report)[1]
    assert [group.set_name for group in table.groups] == ["discs", "other"]
    assert [(row.label, "on the backbone" in row.notes) for row in table.groups[0].rows] == [
        ("zero-shot", False),
        ("nearest neighbours", False),
        ("nearest neighbours", True),
        ("linear probe", False),
        ("linear probe", True),
    ]
    assert [column.title for column in table.columns] == ["Top-1", "Class mean"]
    assert table.groups[1].rows[0].cells[1] is None


def test_class_table__writes_the_settings_of_a_task() -> None:
    [zero_shot, knn, _, probe, backbone] = result_tables(full_report())[1].groups[0].rows
    assert zero_shot.notes == ("2 prompts a class",)
    assert knn.notes == ("k 20", "temperature 0.07", "80 training images")
    assert (probe.notes, probe.warning) == (("L2 weight 0.001",), "")
    assert (backbone.notes, backbone.warning) == (("on the backbone", "L2 weight 0.1"), "did not converge")


def test_analysis_tables__have_a_row_a_side() -> None:
    shape, agreement, clusters, sts = analysis_tables(full_report())
    assert [row.label for row in shape.groups[0].rows] == ["images", "captions"]
    assert [row.label for row in clusters.groups[0].rows] == ["classes", "clusters"]
    assert [[cell.value for cell in row.cells if cell] for row in shape.groups[0].rows] == [
        ["0.120", "\N{MINUS SIGN}3.10", "0.043", "211"]
    ] * 2
    assert [cell.value for cell in sts.groups[0].whole if cell] == ["0.740", "0.750"]
    assert [cell.bar is None for cell in agreement.groups[0].whole if cell] == [False, True, True]


def test_analysis_tables__take_any_number_of_neighbours() -> None:
    entry = some_entry("test", "neighbourhoods", {"neighbour_overlap@3": 12.0}, num_images=9)
    [table] = analysis_tables({"sets": [entry]})
    assert [cell and cell.value for cell in table.groups[0].whole] == ["12.0", None, None]


def test_analysis_tables__explain_every_measure() -> None:
    for table in analysis_tables(full_report()):
        assert len(table.meanings) == len(table.whole_columns) + len(table.columns)
