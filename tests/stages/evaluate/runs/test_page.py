"""The page of students: its parts, what it says where something is not there, and that it holds no code."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import make_measured, make_student, retrieval_outcomes
from result_samples import recall, some_row
from workbench import Cli, Pairs

from data_schemas.artifact_record import Request
from pipeline.store.store import Artifact, Store
from stages.evaluate.compare.find_evaluation import read_evaluation
from stages.evaluate.compare.paired_comparison import Difference
from stages.evaluate.runs.baseline import Against, Baseline
from stages.evaluate.runs.curves import option_charts
from stages.evaluate.runs.rank_changes import find_images, find_rank_changes
from stages.evaluate.statistics.bootstrap import Interval


@pytest.fixture(scope="module")
def html(students_session: tuple[Path, list[Artifact]], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "runs.html"
    result = Cli(students_session[0]).run("runs", "--page", path)
    assert result.exit_code == 0, result.output
    return path.read_text()


def headings(html: str) -> list[str]:
    return [re.sub(r"<[^>]+>|\s+", " ", text).split() for text in re.findall(r"<h2>(.*?)</h2>", html, re.DOTALL)]


def write_page(store: Path, path: Path, *words: object) -> str:
    result = Cli(store).run("runs", "--page", path, *words)
    assert result.exit_code == 0, result.output
    return path.read_text()


def test_page__has_its_parts(html: str, students: list[Artifact]) -> None:
    baseline = students[0].record.fingerprint[:12]
    assert [" ".join(words) for words in headings(html)] == [
        "What they reached",
        "Learning curves",
        "test/mean_recall by option",
        f"Against {baseline}",
        "Where ranks differ most, on test",
    ]
    assert html.count("<svg") == 4  # two curves, lr and seed
    assert html.count("<tbody>") == 2
    assert "Their images are not where the evaluation found them" in html
    assert "<img" not in html


def test_page__holds_no_code_and_loads_nothing(html: str) -> None:
    assert "default-src 'none'" in html
    assert not re.search(r"<script|http-equiv=.refresh|(?:src|href)=.(?!data:)", html)


def test_page__draws_students_of_one_row_in_one_colour(store: Path, tmp_path: Path) -> None:
    grouped = write_page(store, tmp_path / "runs.html", "--group-by", "seed")
    [loss, *_] = re.findall(r"<svg.*?</svg>", grouped, re.DOTALL)
    colours = re.findall(r'fill="none" stroke="(#\w+)"', loss)
    assert len(colours) == 4
    assert len(set(colours)) == 2
    assert "over 2 runs" in grouped


def test_page__takes_the_baseline_that_is_named(store: Path, students: list[Artifact], tmp_path: Path) -> None:
    name = students[3].record.fingerprint[:12]
    html = write_page(store, tmp_path / "runs.html", "--baseline", name[:6])
    assert f"Against {name}" in [" ".join(words) for words in headings(html)]
    assert html.count('data-column="Gain"') == 3
    assert "it has no test/mean_recall" in html  # the student that nobody measured
    message = Cli(store).fails("runs", "--page", tmp_path / "runs.html", "--baseline", "zz")
    assert "--baseline must name one of the students shown; got 'zz'. Known: " in message


def test_page__of_students_without_figures_shows_what_there_is(tmp_path: Path) -> None:
    for seed in range(2):
        make_student(tmp_path / "store", "same", seed=seed)
    html = write_page(tmp_path / "store", tmp_path / "runs.html")
    assert [" ".join(words) for words in headings(html)] == ["What they reached"]


def test_page__escapes_what_options_say(tmp_path: Path) -> None:
    for name in ("<b>", "<i>"):
        make_student(tmp_path / "store", "same", student=name)
    html = write_page(tmp_path / "store", tmp_path / "runs.html")
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_option_charts__name_the_options_that_have_none() -> None:
    rows = [
        some_row(chr(97 + n), lr=10.0**-n, head=f"head {n}", loss=n % 2, figures={"test/mean_recall": recall(float(n))})
        for n in range(13)
    ]
    names = {row.name: row.name for row in rows}
    charts, left_out = option_charts(rows, "test/mean_recall", colours=names, labels=names)
    assert ([chart.title for chart in charts], left_out) == (["lr", "loss"], ["head"])
    assert option_charts(rows, "other", colours=names, labels=names) == ([], [])


def test_baseline__places_no_difference_among_the_intervals() -> None:
    def against(low: float, high: float) -> Against:
        difference = Difference("test/mean_recall", 10.0, 10.0, Interval(low, high, 100), 0.5)
        return Against(some_row("a"), difference)

    both = Baseline(some_row("b"), "test/mean_recall", (against(-1.0, 2.0), against(0.5, 3.0)))
    assert [both.place(end) for end in (-1.0, 0.0, 3.0)] == [0.0, 25.0, 100.0]
    gains = Baseline(some_row("b"), "test/mean_recall", (against(2.0, 4.0),))
    assert (gains.place(0.0), gains.place(4.0)) == (0.0, 100.0)


def test_rank_changes__are_the_captions_ranked_most_apart(store: Path, students: list[Artifact]) -> None:
    first, second = (
        read_evaluation(each.record.fingerprint, store=Store(store), argument="A")
        for each in (students[0], students[3])
    )
    changes = find_rank_changes(first, second, set_name="test", store=Store(store))
    assert changes is not None
    assert len(changes.won) == len(changes.lost) == 6
    gains = [change.first / change.second for change in changes.won]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 1
    ranks = {
        (image, query): rank
        for outcomes in first.outcomes
        if outcomes.task == "text_to_image"
        for image, query, rank in zip(outcomes.images, outcomes.queries, outcomes.measures["rank"], strict=True)
    }
    assert all(ranks[change.path, change.caption] == change.first for change in (*changes.won, *changes.lost))
    assert len({change.path for change in changes.won}) == 6
    assert find_rank_changes(first, second, set_name="other", store=Store(store)) is None


def test_page__compares_no_students_that_were_measured_on_other_images(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for seed, num in enumerate((40, 60)):
        make_measured(store, "same", retrieval_outcomes(seed, ease=1.0, num=num), seed=seed)
    html = write_page(store, tmp_path / "runs.html")
    assert "must hold the same images and captions of test/text_to_image to be compared" in html
    assert "was measured on sets of different sizes" in html


def test_find_images__opens_what_an_evaluation_named_and_hashes_nothing(
    students: list[Artifact], store: Path, encoded_session: tuple[Path, Pairs]
) -> None:
    pairs = encoded_session[1]
    evaluation = Store(store).artifacts("evaluate")[0]

    def asked(folder: Path, retrieval: str) -> Artifact:
        record = replace(evaluation.record, params={}, request=Request(str(folder), {"retrieval": [retrieval]}))
        return Artifact(evaluation.path, record)

    before = sorted(store.rglob("*"))
    images = find_images(asked(pairs.root, f"test={pairs.manifest.name}"), "test", Store(store))
    assert images is not None
    assert list(images.paths) == list(pairs.images)
    whole = find_images(asked(store / "gone", f"test={pairs.manifest}"), "test", Store(store))
    assert whole is not None  # the command's folder is gone, and the path is whole
    assert find_images(asked(pairs.root, f"test={pairs.manifest.name}"), "other", Store(store)) is None
    assert find_images(asked(store / "gone", f"test={pairs.manifest.name}"), "test", Store(store)) is None
    assert find_images(evaluation, "test", Store(store)) is None
    assert sorted(store.rglob("*")) == before
