"""Which rows fulfil a condition, and in which order they stand."""

import pytest
from result_samples import recall, some_row, some_rows

from data_schemas.errors import ProtoRKDError
from pipeline.results.columns import find_metric, keep_rows, sort_rows, text_of
from pipeline.results.figure import Figure


def names(rows):
    return "".join(row.name[0] for row in rows)


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("lr=0.001", "ab"),
        ("lr=1e-3", "ab"),  # a number is compared as a number
        ("lr != 0.001", "cd"),
        ("lr>0.001", "cd"),
        ("lr<=0.002", "abcd"),
        ("loss=infonce=1", "abcd"),
        ("loss!=infonce=1", ""),
        ("mean_recall>30", "bc"),  # the end of a metric's name is enough
        ("test/mean_recall<31", "a"),
        ("test/mean_recall!=30", "bcd"),  # what has no value is not 30
        ("seconds>=12.5", "abc"),
        ("pairs=1200", "abcd"),
    ],
)
def test_keep_rows__keeps_those_that_fulfil_a_condition(condition, kept):
    assert names(keep_rows(some_rows(), [condition])) == kept


def test_keep_rows__keeps_those_that_fulfil_all():
    assert names(keep_rows(some_rows(), ["lr=0.001", "seed=1"])) == "b"
    assert names(keep_rows(some_rows(), [])) == "abcd"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("lr", "--where must be a name, one of = != < > <= >=, and a value; got 'lr'"),
        ("rl=1", r"--where must name an option or a metric of these artifacts; got 'rl'"),
        ("men_recall>1", r"Did you mean 'test/mean_recall'"),
        ("loss>infonce", "--where must compare by > with a number; got 'loss>infonce'"),
    ],
)
def test_keep_rows__refuses_what_says_nothing(condition, message):
    with pytest.raises(ProtoRKDError, match=message):
        keep_rows(some_rows(), [condition])


def test_keep_rows__knows_flags_and_texts():
    rows = [some_row("a", compile=True, head="mlp"), some_row("b", compile=False, head="")]
    assert names(keep_rows(rows, ["compile=true"])) == "a"
    assert names(keep_rows(rows, ["head=none"])) == "b"


def test_find_metric__refuses_an_end_that_fits_two():
    rows = [some_row("a", figures={"test/mean_recall": recall(1.0), "validation/mean_recall": recall(2.0)})]
    with pytest.raises(ProtoRKDError, match="'mean_recall' fits test/mean_recall, validation/mean_recall"):
        find_metric(rows, "mean_recall", flag="--sort")
    assert find_metric(rows, "test/mean_recall", flag="--sort") == "test/mean_recall"


def test_sort_rows__puts_the_best_first_and_what_has_none_last():
    assert names(sort_rows(some_rows(), "mean_recall")) == "cbad"
    assert names(sort_rows(some_rows(), None)) == "cbad"
    ranks = [
        some_row(name, figures={"median_rank": Figure(rank, better="lower")}) for name, rank in (("a", 9), ("b", 3))
    ]
    assert names(sort_rows(ranks, "median_rank")) == "ba"


def test_sort_rows__puts_options_in_ascending_order_and_keeps_that_of_equals():
    assert names(sort_rows(some_rows(), "seed")) == "acbd"
    assert names(sort_rows(some_rows(), "seconds")) == "abcd"  # the last took nobody knows how long
    assert sort_rows([], None) == []


def test_text_of__writes_values_as_tables_show_them():
    values = [True, 1e-5, 0.05, 512, [], ["simreg=1", "proto=0.5"], None, "", "mlp"]
    texts = ["true", "1e-05", "0.05", "512", "none", "simreg=1+proto=0.5", "none", "none", "mlp"]
    assert [text_of(value) for value in values] == texts
