"""What tables of results show of an evaluation: its figures with intervals, those that it is judged by first."""

from pathlib import Path

import pytest
from evaluations import make_evaluation, make_student
from page_samples import full_report

from pipeline.results.figure import Figure
from stages.evaluate.overview import figures, headline_of


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Figure]:
    store = tmp_path / "store"
    report = full_report()
    evaluation = make_evaluation(store, make_student(store, "one"), {}, entries=report["sets"])
    return dict(figures(evaluation, lambda path: (evaluation.path / path).read_bytes()))


def test_figures__have_headlines_of_retrieval_before_those_of_classes(found: dict[str, Figure]) -> None:
    headlines = [name for name, figure in found.items() if figure.is_headline]
    assert headlines[0] == "test/mean_recall"
    assert headlines[1] == "discs/zero_shot/mean_per_class"  # by convention of that set
    assert next(iter(found)) == "test/mean_recall"


def test_figures__have_intervals_sizes_and_the_better_way(found: dict[str, Figure]) -> None:
    recall = found["test/mean_recall"]
    assert recall.low is not None
    assert recall.low < recall.value
    assert recall.measured_on.startswith("24 images")
    better = {name.rpartition("/")[2]: figure.better for name, figure in found.items()}
    assert (better["recall@10"], better["median_rank"], better["top1"]) == ("higher", "lower", "higher")
    assert better["modality_gap"] == ""


@pytest.mark.parametrize(
    ("names", "headline"),
    [
        (["test/geometry/modality_gap", "a/zero_shot/top1", "test/mean_recall"], "test/mean_recall"),
        (["a/knn/top1", "a/zero_shot/top1"], "a/zero_shot/top1"),
        (["a/linear_probe/top1", "a/knn/top1"], "a/knn/top1"),
        (["a/geometry/modality_gap"], ""),
    ],
)
def test_headline_of__prefers_retrieval(names: list[str], headline: str) -> None:
    assert headline_of(dict.fromkeys(names, 1.0)) == headline
