"""Tables of results: their columns, their marks, and every format that they are written in."""

import csv
import json

import pytest
from result_samples import recall, some_row, some_rows

from data_schemas.errors import ProtoRKDError
from pipeline.results.figure import Figure
from pipeline.results.formats import FORMATS
from pipeline.results.groups import group_rows
from pipeline.results.table import differing_options, result_table


def written(form, rows=None, **options):
    return FORMATS[form](result_table(some_rows() if rows is None else rows, **options)).splitlines()


def test_table__shows_the_options_that_differ_and_marks_the_best():
    lines = written("table")
    assert [line.split() for line in lines[:5]] == [
        ["fingerprint", "lr", "seed", "test/mean_recall", "seconds", "pairs"],
        ["a00000000000", "0.001", "0", "30.00", "[28.00,", "32.00]", "12", "1,200"],
        ["b00000000000", "0.001", "1", "31.00", "[29.00,", "33.00]", "12", "1,200"],
        ["c00000000000", "0.002", "0", "35.00", "[33.00,", "37.00]", "*", "12", "1,200"],
        ["d00000000000", "0.002", "1", "1,200"],
    ]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[6:] == [
        "* the best of its column.",
        "In brackets 95 % intervals over images like these; they say nothing of other seeds.",
    ]


def test_table__marks_nothing_where_all_are_equal():
    rows = [some_row(name, seed=seed, figures={"a/top1": recall(30.0)}) for seed, name in enumerate("ab")]
    assert "*" not in "".join(written("table", rows))


def test_table__shows_what_tells_a_single_row_apart():
    assert written("table", some_rows()[:1])[0].split()[:2] == ["fingerprint", "seed"]


def test_table__explains_deviations():
    lines = written("table", group_rows(some_rows(), ["seed"]))
    assert lines[1].split()[:6] == ["2", "runs", "0.001", "30.50", "±", "0.71"]
    assert "± is the standard deviation over the runs of a row." in lines


def test_table__says_where_a_metric_is_of_sets_of_other_sizes():
    rows = [
        some_row(name, seed=number, figures={"test/mean_recall": recall(30.0, measured_on=f"{size} images")})
        for number, (name, size) in enumerate((("a", 2000), ("b", 500)))
    ]
    assert (
        "test/mean_recall was measured on sets of different sizes (2000 images; 500 images): not to be compared among "
        "these rows."
    ) in written("table", rows)


def test_table__shows_metrics_by_name_and_counts_those_that_it_leaves_out():
    figures = {f"set{number}/knn/top1": recall(float(number)) for number in range(9)} | {"gap": Figure(0.5)}
    rows = [some_row("a", seed=0, figures=figures), some_row("b", seed=1, figures=figures)]
    assert "3 more such metrics are not shown: choose by --metric." in written("table", rows)
    assert written("table", rows, metrics=["gap", "set8/knn/top1"])[0].split()[2:4] == ["gap", "set8/knn/top1"]
    assert "*" not in written("table", rows, metrics=["gap"])[1]  # nobody knows which gap is the better one
    with pytest.raises(ProtoRKDError, match="'top1' fits set0/knn/top1, "):
        result_table(rows, metrics=["top1"])


def test_csv__has_all_options_and_figures_as_numbers():
    rows = list(csv.DictReader(written("csv")))
    assert [row["lr"] for row in rows] == ["0.001", "0.001", "0.002", "0.002"]
    assert rows[0]["loss"] == "infonce=1"
    assert [rows[2][f"test/mean_recall{end}"] for end in ("", "/low", "/high")] == ["35.0", "33.0", "37.0"]
    assert rows[3]["test/mean_recall"] == rows[3]["seconds"] == ""
    grouped = list(csv.DictReader(written("csv", group_rows(some_rows(), ["seed"]))))
    assert grouped[0]["runs"] == "2"
    assert float(grouped[0]["test/mean_recall/std"]) == pytest.approx(0.7071068)


def test_csv__holds_no_formula():
    assert "'=cmd" in "\n".join(written("csv", [some_row("a", head="=cmd")]))


def test_md__makes_the_best_bold_and_keeps_its_columns():
    lines = written("md", [*some_rows()[:2], some_row("c", lr=1e-3, seed=2, loss=["a|b"])])
    assert lines[0] == "| fingerprint | seed | loss | test/mean_recall | seconds | pairs |"
    assert lines[1] == "|---|---|---|---:|---:|---:|"
    assert lines[3] == "| b00000000000 | 1 | infonce=1 | **31.00 [29.00, 33.00]** | 12 | 1,200 |"
    assert "a\\|b" in lines[4]


def test_tex__is_a_tabular_with_its_letters_escaped():
    lines = written("tex", group_rows(some_rows(), ["seed"]))
    assert lines[0] == r"\begin{tabular}{llrrr}"
    assert lines[2] == r"fingerprint & lr & test/mean\_recall & seconds & pairs \\"
    assert lines[4] == r"2 runs & 0.001 & 30.50 $\pm$ 0.71 & 12 & 1,200 \\"
    assert lines[5].startswith(r"2 runs & 0.002 & \textbf{35.00 [33.00, 37.00]}")
    assert lines[-1] == r"\end{tabular}"


def test_json__is_an_object_with_flat_rows():
    runs = json.loads("".join(written("json")))["runs"]
    assert runs[0]["fingerprint"] == f"{'a':0<32}"
    assert (runs[0]["lr"], runs[0]["loss"], runs[0]["test/mean_recall"]) == (0.001, ["infonce=1"], 30.0)
    assert runs[3]["seconds"] is None
    assert "test/mean_recall" not in runs[3]


def test_differing_options__are_those_with_two_values_or_more():
    assert differing_options(some_rows()) == ["lr", "seed"]
    assert differing_options(some_rows()[:1]) == []
