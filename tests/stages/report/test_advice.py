"""Advice follows from figures: each rule at its threshold."""

from collections.abc import Callable
from typing import Any

import pytest
from report_samples import full_report

from stages.report.advice import give_advice

Change = Callable[[dict[str, Any]], object]


def titles(change: Change = lambda report: None) -> dict[str, str]:
    report = full_report()
    change(report)
    return {advice["title"]: advice["kind"] for advice in give_advice(report)}


def test_advice__of_good_pairs_is_to_train() -> None:
    assert titles() == {
        "1 of 2 queries have no caption near them": "look",
        "False negatives in large batches": "look",
        "Captions and features agree": "good",
    }


@pytest.mark.parametrize(
    ("change", "title", "kind"),
    [
        (lambda report: report["captions"].update(num_pairs=9_999), "Few pairs: 9,999", "look"),
        (lambda report: report["captions"].update(cut=979), "5.00 % of the captions are cut off", "act"),
        (lambda report: report["captions"].update(num_zero=400), "400 captions have no embedding", "act"),
        (
            lambda report: report["captions"].update(repeated_pairs=4000),
            "20.0 % of the pairs share their caption word for word",
            "look",
        ),
        (
            lambda report: report["captions"]["near_duplicates"].update(share=0.1),
            "10.0 % of the captions have a near-duplicate",
            "look",
        ),
        (
            lambda report: report["captions"]["nearness"]["false_negatives"][1]["batches"][0].update(affected=0.25),
            "False negatives in every batch",
            "act",
        ),
        (
            lambda report: report["captions"]["nearness"]["false_negatives"][1]["batches"][1].update(affected=0.7),
            "Few false negatives",
            "good",
        ),
        (
            lambda report: report["images"].update(num_equal=1000),
            "5.00 % of the images are there more than once",
            "look",
        ),
        (lambda report: report["images"]["space"].update(effective_rank=15), "The features fill few dimensions", "act"),
        (
            lambda report: report["captions"]["balance"].update(effective_share=0.4),
            "Few subjects make up most captions",
            "look",
        ),
        (lambda report: report["together"].update(mutual_knn=1.0), "Captions and features hardly agree", "act"),
        (lambda report: report["together"].update(mutual_knn=3.0), "Captions and features agree in part", "look"),
        (
            lambda report: report["baseline"]["metrics"].update(mean_recall=5.0),
            "Captions and features hardly agree",
            "act",
        ),
        (
            lambda report: report["baseline"]["metrics"].update(mean_recall=15.0),
            "Captions and features agree in part",
            "look",
        ),
        (lambda report: [report.pop(part) for part in ("images", "together", "baseline")], "Captions alone", "look"),
        (lambda report: report["coverage"].pop(), "Every query is covered", "good"),
    ],
)
def test_advice__follows_from_the_figures(change: Change, title: str, kind: str) -> None:
    assert title not in titles()
    assert titles(change)[title] == kind


def test_advice__puts_first_what_has_to_be_done_first() -> None:
    kinds = list(titles(lambda report: report["captions"].update(num_zero=400, num_pairs=100)).values())
    assert kinds == sorted(kinds, key=["act", "look", "good"].index)
