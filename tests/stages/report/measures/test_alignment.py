"""Spaces compared and the ridge baseline: what agrees is found, what does not is at chance."""

import pytest
import torch
from torch.nn.functional import normalize

from stages.components.metrics.retrieval import retrieval_metrics
from stages.report.measures.alignment import compare_spaces, measure_baseline
from stages.report.measures.ridge import fit_ridge


def some_pairs(num: int, *, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and captions that follow from them by a share."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num, 16, generator=generator)
    said = features @ torch.randn(16, 12, generator=generator)
    return features, normalize(share * said + (1 - share) * 4 * torch.randn(num, 12, generator=generator), dim=1)


def test_spaces__agree_where_one_follows_from_the_other() -> None:
    features, captions = some_pairs(120, share=1)
    same = compare_spaces(normalize(features, dim=1), captions, num_neighbours=5)
    features, captions = some_pairs(120, share=0)
    other = compare_spaces(normalize(features, dim=1), captions, num_neighbours=5)
    assert same["mutual_knn"] > 5 * same["chance"] == pytest.approx(5 * 100 * 5 / 119)
    assert other["mutual_knn"] < 2 * other["chance"]
    assert same["cka"] > 0.4 > 0.1 > abs(other["cka"])


@pytest.mark.parametrize(("num", "measures"), [(3, set()), (5, {"cka"}), (6, {"cka", "mutual_knn", "chance"})])
def test_spaces__of_few_pairs_are_compared_as_far_as_may_be(num: int, measures: set[str]) -> None:
    features, captions = some_pairs(num, share=1)
    found = compare_spaces(normalize(features, dim=1), captions, num_neighbours=5)
    assert found.keys() - {"num_pairs", "num_neighbours"} == measures


def test_baseline__retrieves_held_out_pairs() -> None:
    features, captions = some_pairs(400, share=0.95)
    found = measure_baseline(features, captions, seed=3)
    assert (found.measures["num_held_out"], found.measures["num_fitted"]) == (40, 360)
    assert found.measures["metrics"]["mean_recall"] > 80
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    predicted = normalize(fit_ridge(features[order[40:]], captions[order[40:]]).predict(features), dim=1)
    torch.testing.assert_close(found.cosines, (predicted * captions).sum(dim=1))
    expected = retrieval_metrics(
        image_embeddings=predicted[order[:40]],
        caption_embeddings=captions[order[:40]],
        caption_image=torch.arange(40),
    )
    assert found.measures["metrics"] == expected


def test_baseline__is_at_chance_where_captions_belong_to_other_images() -> None:
    found = measure_baseline(*some_pairs(400, share=0), seed=0).measures
    assert found["metrics"]["mean_recall"] < 2 * found["chance"]["mean_recall"]
    assert found["held_out_cosine"] < 0.15


def test_baseline__does_with_two_pairs() -> None:
    found = measure_baseline(*some_pairs(2, share=1), seed=0)
    assert (found.measures["num_held_out"], found.measures["num_fitted"], len(found.cosines)) == (1, 1, 2)
