"""One row of those that differ in a seed alone."""

from statistics import stdev

import pytest
from result_samples import recall, some_row, some_rows

from data_schemas.errors import ProtoRKDError
from pipeline.results.groups import group_rows


def test_group_rows__gives_mean_and_deviation_over_seeds():
    slow, fast = group_rows(some_rows(), ["seed"])
    assert (slow.name, fast.name) == ("2 runs", "2 runs")
    assert slow.options == {"lr": 1e-3, "loss": ["infonce=1"]}
    figure = slow.figures["test/mean_recall"]
    assert (figure.value, figure.std, figure.num_runs) == (30.5, pytest.approx(stdev([30.0, 31.0])), 2)
    assert (figure.low, figure.high) == (None, None)
    assert str(figure) == "30.50 ± 0.71"
    assert slow.facts == {"seconds": 12.5, "pairs": 1200}


def test_group_rows__keeps_the_interval_of_a_figure_that_one_run_alone_has():
    figure = group_rows(some_rows(), ["seed"])[1].figures["test/mean_recall"]
    assert (figure.value, figure.low, figure.num_runs) == (35.0, 33.0, 1)


def test_group_rows__leaves_what_differs_in_something_else():
    rows = [*some_rows(), some_row("e", lr=3e-3, seed=0, loss=["infonce=1"], figures={"test/mean_recall": recall(1.0)})]
    assert [len(row.artifacts) for row in group_rows(rows, ["seed"])] == [2, 2, 1]
    assert [len(row.artifacts) for row in group_rows(rows, ["seed", "lr"])] == [5]
    assert group_rows(rows, []) == rows


def test_group_rows__averages_what_it_took_and_knows_where_that_is_unknown():
    assert group_rows(some_rows(), ["seed"])[1].facts == {"seconds": None, "pairs": 1200}
    rows = [some_row("a", seed=0, seconds=10.0, pairs=100), some_row("b", seed=1, seconds=20.0, pairs=100)]
    assert group_rows(rows, ["seed"])[0].facts == {"seconds": 15.0, "pairs": 100}


def test_group_rows__refuses_an_option_that_none_has():
    with pytest.raises(ProtoRKDError, match="--group-by must name an option or a metric of these artifacts; got 'sed'"):
        group_rows(some_rows(), ["sed"])
