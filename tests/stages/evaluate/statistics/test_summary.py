from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_schemas.per_query_results import QueryResults
from stages.evaluate.compare.paired_comparison import Draws, compare_outcomes
from stages.evaluate.statistics.bootstrap import bootstrap_class_mean, bootstrap_mean, bootstrap_median
from stages.evaluate.statistics.summary import mean_interval, statistics, summarise

DRAWS: dict[str, Any] = {"seed": 3, "num_resamples": 200}


def classified(num: int = 90) -> QueryResults:
    hits = np.random.default_rng(0).random((2, num)).round()
    return QueryResults(
        set_name="pets",
        task="knn",
        images=[f"{number:03}.jpg" for number in range(num)],
        labels=["dog" if number % 3 else "cat" for number in range(num)],
        measures={"top1": hits[0], "top5": np.maximum(*hits)},
    )


def retrieved(num_pictures: int = 40, *, captions: int = 3) -> QueryResults:
    ranks = np.random.default_rng(1).integers(1, 30, num_pictures * captions).astype(np.float64)
    return QueryResults(
        set_name="pairs",
        task="text_to_image",
        images=[f"{number // captions:03}.jpg" for number in range(len(ranks))],
        queries=[f"caption {number}" for number in range(len(ranks))],
        measures={"recall@5": (ranks <= 5).astype(np.float64), "rank": ranks},
    )


def test_summarise__gives_means_and_the_mean_of_classes() -> None:
    outcomes = classified()
    top1, is_dog = outcomes.measures["top1"], np.arange(90) % 3 > 0
    summary = summarise(outcomes, **DRAWS)
    assert summary.metrics == pytest.approx(
        {
            "top1": 100 * top1.mean(),
            "top5": 100 * outcomes.measures["top5"].mean(),
            "mean_per_class": 50 * (top1[is_dog].mean() + top1[~is_dog].mean()),
        }
    )
    assert list(summary.intervals) == list(summary.metrics) == ["top1", "top5", "mean_per_class"]
    assert summary.intervals["top1"] == bootstrap_mean(100 * top1, **DRAWS)
    assert summary.intervals["mean_per_class"] == bootstrap_class_mean(100 * top1, labels=is_dog, **DRAWS)
    assert summary.intervals["top1"].num_pictures == 90


def test_summarise__gives_the_median_of_ranks_and_draws_an_images_captions_together() -> None:
    outcomes = retrieved()
    summary = summarise(outcomes, **DRAWS)
    groups = np.arange(40).repeat(3)
    assert summary.metrics["median_rank"] == np.median(outcomes.measures["rank"])
    assert summary.intervals["median_rank"] == bootstrap_median(outcomes.measures["rank"], groups=groups, **DRAWS)
    assert summary.intervals["recall@5"] == bootstrap_mean(100 * outcomes.measures["recall@5"], groups=groups, **DRAWS)
    assert summary.intervals["recall@5"].num_pictures == 40


@pytest.mark.parametrize("outcomes", [classified(), retrieved()])
def test_summarise__names_and_measures_as_a_comparison_does(outcomes: QueryResults) -> None:
    compared = compare_outcomes([outcomes], [outcomes], draws=Draws(num_resamples=2, num_permutations=2))
    names = {f"{outcomes.name}/{name}": value for name, value in summarise(outcomes, **DRAWS).metrics.items()}
    assert {each.name: each.first for each in compared} == pytest.approx(names)


def test_summarise__does_not_depend_on_the_order_of_the_rows() -> None:
    outcomes = retrieved()
    order = np.random.default_rng(0).permutation(len(outcomes.images))
    shuffled = replace(
        outcomes,
        images=[outcomes.images[row] for row in order],
        queries=[outcomes.queries[row] for row in order],
        measures={name: values[order] for name, values in outcomes.measures.items()},
    )
    expected, other = summarise(outcomes, **DRAWS), summarise(shuffled, **DRAWS)
    assert other.metrics == pytest.approx(expected.metrics)
    for name, interval in expected.intervals.items():
        assert other.intervals[name] == pytest.approx(interval)


def test_summarise__has_no_mean_of_classes_without_labels() -> None:
    assert summarise(replace(classified(), labels=()), **DRAWS).metrics.keys() == {"top1", "top5"}


def test_summarise__is_settled_by_the_seed() -> None:
    found = classified()
    first, again, other = (summarise(found, seed=seed, num_resamples=100).intervals for seed in (0, 0, 1))
    assert first == again != other


def test_mean_interval__draws_the_same_images_for_all_parts() -> None:
    found = replace(classified(), labels=())
    top1 = found.measures["top1"]
    opposite = replace(found, measures={"top1": 1 - top1})
    parts = [*statistics(replace(found, measures={"top1": top1})), *statistics(opposite)]
    assert mean_interval(parts, **DRAWS) == pytest.approx((50.0, 50.0, 90))
    assert mean_interval(parts[:1], **DRAWS) == bootstrap_mean(100 * top1, **DRAWS)


def test_mean_interval__takes_captions_and_images_on_the_same_resamples() -> None:
    hits = np.random.default_rng(2).random(40).round()
    captions = replace(retrieved(), measures={"recall@5": hits.repeat(3)})
    images = replace(captions, images=captions.images[::3], queries=(), measures={"recall@5": 1 - hits})
    parts = [each for found in (captions, images) for each in statistics(found)]
    assert mean_interval(parts, **DRAWS) == pytest.approx((50.0, 50.0, 40))
