import pytest

from stages.components.report.numbers import figure, interval, precise, rank, share, signed, similarity


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0.0"), (0.05, "0.05"), (9.999, "10.00"), (12.34, "12.3"), (100.0, "100"), (1234, "1,234")],
)
def test_share__has_three_digits(value: float, written: str) -> None:
    assert share(value) == written


@pytest.mark.parametrize(("value", "written"), [(1.0, "1"), (37.5, "37.5"), (12345.0, "12,345")])
def test_rank__is_whole_but_for_ties(value: float, written: str) -> None:
    assert rank(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0.00"),
        (0.0431, "0.043"),
        (-0.0001, "0.000"),
        (-3.14159, "\N{MINUS SIGN}3.14"),
        (41.26, "41.3"),
        (1234.5, "1,234"),
    ],
)
def test_figure__fits_any_scale_and_sign(value: float, written: str) -> None:
    assert figure(value) == written


def test_similarity__has_two_places_and_a_true_minus() -> None:
    assert (similarity(0.314), similarity(-0.02), similarity(-0.001)) == ("0.31", "\N{MINUS SIGN}0.02", "0.00")


def test_precise__keeps_four_places_of_small_values() -> None:
    assert [precise(value) for value in (0.0, 0.04123, 12.345, -0.5)] == [
        *("0.00", "0.0412", "12.35", "\N{MINUS SIGN}0.5000")
    ]


def test_interval__takes_a_dash_unless_an_end_is_negative() -> None:
    assert interval(41.23, 45.0, share) == "41.2\N{EN DASH}45.0"
    assert interval(-0.12, 0.04, figure) == "\N{MINUS SIGN}0.120 to 0.040"


@pytest.mark.parametrize("text", ["-0", "-0.00"])
def test_signed__knows_no_negative_zero(text: str) -> None:
    assert signed(text) == text[1:]
