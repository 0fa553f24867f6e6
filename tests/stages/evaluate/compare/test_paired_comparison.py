import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from evaluations import retrieval_outcomes

from data_schemas.errors import ProtoRKDError
from data_schemas.per_query_results import QueryResults
from stages.evaluate.compare.paired_comparison import (
    Draws,
    Values,
    compare_class_means,
    compare_means,
    compare_medians,
    compare_outcomes,
)
from stages.evaluate.statistics.summary import statistics

DRAWS = Draws(seed=0, num_resamples=300, num_permutations=300)


def two_students(num: int, *, gain: float, seed: int = 0) -> tuple[Values, Values]:
    """Hits of two students that mostly agree; the second is right more often by so much."""
    generator = np.random.default_rng(seed)
    ease = generator.random(num)
    noise = generator.normal(scale=0.1, size=(2, num))
    return (ease + noise[0] > 0.5).astype(np.float64), (ease + noise[1] > 0.5 - gain).astype(np.float64)


def classified(hits: Values, **changes: Any) -> QueryResults:
    names = [f"{'cat' if number % 3 else 'dog'}/{number}.jpg" for number in range(len(hits))]
    outcomes = QueryResults(
        set_name="pets",
        task="zero_shot",
        images=names,
        labels=[name[:3] for name in names],
        measures={"top1": hits},
    )
    return replace(outcomes, **changes)


def retrieved(ranks: Values, **changes: Any) -> QueryResults:
    outcomes = QueryResults(
        set_name="pairs",
        task="text_to_image",
        images=[f"{number // 2}.jpg" for number in range(len(ranks))],
        queries=[f"caption {number}" for number in range(len(ranks))],
        measures={"recall@5": (ranks <= 5).astype(np.float64), "rank": ranks},
    )
    return replace(outcomes, **changes)


def test_compare_means__has_an_interval_narrower_than_that_of_unpaired_students() -> None:
    first, second = two_students(1000, gain=0.05)
    paired = compare_means("top1", first=first, second=second, draws=DRAWS)
    spread = np.sqrt(first.var() / 1000 + second.var() / 1000) * 2 * 1.96
    paired_spread = (second - first).std() / np.sqrt(1000) * 2 * 1.96
    assert paired.interval.high - paired.interval.low == pytest.approx(paired_spread, rel=0.15)
    assert paired.interval.high - paired.interval.low < 0.8 * spread
    assert paired.difference == pytest.approx(second.mean() - first.mean())
    assert paired.interval.low < paired.difference < paired.interval.high


def test_compare_means__takes_an_images_captions_together() -> None:
    first, second = two_students(60, gain=0.2)
    groups = np.arange(60)
    once = compare_means("recall", first=first, second=second, draws=DRAWS)
    five = {"first": first.repeat(5), "second": second.repeat(5)}
    together = compare_means("recall", **five, groups=groups.repeat(5), draws=DRAWS)
    assert together.interval == pytest.approx(once.interval)
    assert together.p_value == pytest.approx(once.p_value)
    assert compare_means("recall", **five, draws=DRAWS).p_value < once.p_value / 10


def test_comparisons__reject_students_that_are_alike_in_one_of_twenty_sets() -> None:
    generator = np.random.default_rng(0)
    p_values: dict[str, list[float]] = {"means": [], "classes": [], "medians": []}
    draws = Draws(num_resamples=2, num_permutations=100)
    for _ in range(150):
        first, second = np.round(generator.gamma(2.0, 5.0, size=(2, 40))) + 1
        pair = {"first": first, "second": second, "draws": draws}
        p_values["means"].append(compare_means("", **pair).p_value)
        p_values["classes"].append(compare_class_means("", **pair, labels=np.arange(40) // 30).p_value)
        p_values["medians"].append(compare_medians("", **pair).p_value)
    for found in p_values.values():
        assert np.mean(np.array(found) <= 0.05) <= 0.09


def test_compare_class_means__weighs_classes_alike() -> None:
    labels = np.repeat([0, 1], [90, 10])
    first, second = np.zeros(100), (labels == 1).astype(np.float64)
    found = compare_class_means("mean_per_class", first=first, second=second, labels=labels, draws=DRAWS)
    assert (found.first, found.second) == pytest.approx((0.0, 0.5))
    assert found.interval[:2] == pytest.approx((0.5, 0.5))
    assert found.p_value == pytest.approx(2 / 2**10)


def test_compare_medians__finds_a_shift() -> None:
    ranks = np.random.default_rng(0).integers(1, 100, size=200).astype(np.float64)
    found = compare_medians("median_rank", first=ranks + 20, second=ranks, draws=DRAWS)
    assert found.difference == -20
    assert found.interval[:2] == (-20, -20)
    assert found.p_value == pytest.approx(1 / 301)


def test_compare_outcomes__gives_the_metrics_of_reports() -> None:
    first, second = two_students(300, gain=0.1)
    ranks = np.random.default_rng(1).integers(1, 20, size=(2, 80)).astype(np.float64)
    ours, theirs = [classified(first), retrieved(ranks[0])], [retrieved(ranks[1]), classified(second)]
    differences = {each.name: each for each in compare_outcomes(ours, theirs, draws=DRAWS)}
    assert list(differences) == [
        "pets/zero_shot/top1",
        "pets/zero_shot/mean_per_class",
        "pairs/text_to_image/recall@5",
        "pairs/text_to_image/median_rank",
    ]
    assert differences["pets/zero_shot/top1"].first == pytest.approx(100 * first.mean())
    dogs = np.arange(300) % 3 == 0
    assert differences["pets/zero_shot/mean_per_class"].second == pytest.approx(
        50 * (second[dogs].mean() + second[~dogs].mean())
    )
    assert differences["pairs/text_to_image/recall@5"].second == pytest.approx(100 * np.mean(ranks[1] <= 5))
    assert differences["pairs/text_to_image/recall@5"].interval.num_pictures == 40
    assert differences["pairs/text_to_image/median_rank"].first == np.median(ranks[0])


def test_compare_outcomes__pairs_images_by_name_whatever_their_order() -> None:
    first, second = two_students(100, gain=0.1)
    expected = compare_outcomes([classified(first)], [classified(second)], draws=DRAWS)
    order = np.random.default_rng(0).permutation(100)
    outcomes = classified(second)
    shuffled = replace(
        outcomes,
        images=[outcomes.images[row] for row in order],
        labels=[outcomes.labels[row] for row in order],
        measures={"top1": second[order]},
    )
    assert compare_outcomes([classified(first)], [shuffled], draws=DRAWS) == expected


def test_compare_outcomes__finds_no_difference_between_a_student_and_itself() -> None:
    outcomes = [classified(two_students(50, gain=0.0)[0])]
    for found in compare_outcomes(outcomes, outcomes, draws=DRAWS):
        assert (found.difference, found.p_value, *found.interval[:2]) == (0, 1, 0, 0)


def test_compare_outcomes__swaps_signs_with_the_students() -> None:
    first, second = ([classified(hits)] for hits in two_students(200, gain=0.1))
    for one, other in zip(compare_outcomes(first, second), compare_outcomes(second, first), strict=True):
        assert one.difference == -other.difference
        assert one.p_value == other.p_value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": ["a.jpg", "cat/1.jpg", "b.jpg"]},
            r"same images and captions of pets/zero_shot .* got 2 in the first alone, first 'cat/2.jpg' "
            r"and 2 in the second alone, first 'a.jpg'\. Evaluate",
        ),
        ({"queries": ["", "", "a cat"]}, r"1 in the first alone, first 'cat/2.jpg' and .* first 'cat/2.jpg: a cat'"),
        ({"labels": ["dog", "cat", "emu"]}, r"one label to be compared; got cat and emu for cat/2.jpg\."),
        ({"measures": {"top5": np.ones(3)}}, r"same measures of pets/zero_shot .* got \['top1'\] and \['top5'\]\."),
        ({"set_name": "cars"}, r"must share a set and a task .* got \['pets/zero_shot'\] and \['cars/zero_shot'\]\."),
    ],
)
def test_compare_outcomes__refuses_what_differs_by_name(changes: dict[str, Any], message: str) -> None:
    first = classified(np.ones(3))
    with pytest.raises(ProtoRKDError, match=message):
        compare_outcomes([first], [replace(first, **changes)], draws=DRAWS)


def test_compare_outcomes__logs_what_only_one_has(caplog: pytest.LogCaptureFixture, quiet_log: None) -> None:
    first = classified(np.ones(3))
    with caplog.at_level(logging.INFO):
        compare_outcomes([first], [first, replace(first, task="knn")], draws=DRAWS)
    assert "pets/knn is left out" in caplog.text


def test_mean_recall__is_paired_over_images_in_both_directions() -> None:
    first, second = retrieval_outcomes(0, ease=0.2), retrieval_outcomes(1, ease=1.0)
    draws = Draws(num_resamples=200, num_permutations=500)
    [found] = compare_outcomes(first, second, draws=draws, metric="test/mean_recall")
    assert found == compare_outcomes(first, second, draws=draws)[0]
    assert found.p_value == pytest.approx(1 / 501)
    recalls = [
        [each for task in student for each in statistics(task) if each.kind == "mean"] for student in (first, second)
    ]
    replicates = [
        np.mean([each.replicates(seed=0, num_resamples=200) for each in student], axis=0) for student in recalls
    ]
    low, high = np.percentile(replicates[1] - replicates[0], (2.5, 97.5))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    [same] = compare_outcomes(first, first, draws=draws, metric="test/mean_recall")
    assert (same.difference, same.interval[:2], same.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_mean_recall__needs_both_directions() -> None:
    [captions, _] = retrieval_outcomes(0, ease=0.2)
    assert compare_outcomes([captions], [captions], metric="test/mean_recall") == []
