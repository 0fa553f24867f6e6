"""The table of a GPU day: every bar has a line, and all of it fits."""

from benchmarks.gpu.plan import GROUPS, names_of
from benchmarks.gpu.records import Record
from benchmarks.gpu.table import BARS, MOST_CHARACTERS, Bar, flat, table

QUICK, SMALL = Bar("bare/*/images_per_s", at_least=100), Bar("waits/total", at_most=0)


def lines_of(text: str, start: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_table__says_which_bars_are_met() -> None:
    records = {
        "bare": Record(
            "done", 3.0, {"8": {"images_per_s": 100.0}, "16": {"images_per_s": 99.0}, "32": {"failed": 90 * "memory "}}
        ),
        "waits": Record("done", 1.0, {"total": 0}),
    }
    text = table(records, bars=(QUICK, SMALL))
    assert lines_of(text, "bare/8") == [["bare/8/images_per_s", "100", ">=", "100", "met"]]
    assert lines_of(text, "bare/16") == [["bare/16/images_per_s", "99", ">=", "100", "MISSED"]]
    assert lines_of(text, "waits/") == [["waits/total", "0", "<=", "0", "met"]]
    [reason] = [line for line in text.splitlines() if line.startswith("  32: failed memory memory")]
    assert len(reason) < 200


def test_table__says_of_a_bar_without_a_figure_why() -> None:
    text = table({"waits": Record("killed after 60 s", 60.0, error="a\nlast line")}, bars=(QUICK, SMALL))
    assert lines_of(text, "waits/total") == [
        ["waits/total", "<=", "0", "not", "measured", "(killed", "after", "60", "s)"]
    ]
    assert "last line" in text
    assert "bare" not in text  # which was not asked for


def test_table__holds_what_is_no_number_for_missed() -> None:
    nan = Record("done", 1.0, {"8": {"images_per_s": float("nan")}, "16": {"images_per_s": "many"}})
    assert [line[-1] for line in lines_of(table({"bare": nan}, bars=(QUICK,)), "bare/")] == ["MISSED", "MISSED"]


def test_bar__of_yes_and_no_is_met_by_yes() -> None:
    bar = Bar("resume/goes_on", at_least=True)
    assert (bar.is_met_by(True), bar.is_met_by(False)) == (True, False)


def test_table__fits() -> None:
    figures = {f"configuration {number}": {"images_per_s": float(number)} for number in range(1000)}
    text = table({"bare": Record("done", 1.0, figures), "waits": Record("done", 1.0, {"total": 0})})
    assert MOST_CHARACTERS - 200 < len(text) <= MOST_CHARACTERS
    assert text.endswith("the rest stands in results.json")
    assert lines_of(text, "waits/total")  # bars come first


def test_bars__are_of_steps_that_there_are() -> None:
    assert {bar.figures.partition("/")[0] for bar in BARS} <= set(names_of(GROUPS))


def test_flat__joins_names_by_slashes() -> None:
    assert dict(flat({"a": 1, "b": {"c": {"d": 2}}}, "step")) == {"step/a": 1, "step/b/c/d": 2}
