import numpy as np
import pytest
import torch

from stages.evaluate.metrics.classification import classify


def some_scores(num_classes: int, *, num_images: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    scores = torch.randn(num_images, num_classes, generator=generator)
    scores[torch.arange(num_images), labels] += 1
    return scores, labels


def test_classify__agrees_with_scikit_learn() -> None:
    from sklearn.metrics import top_k_accuracy_score

    scores, labels = some_scores(9)
    found = classify(scores=scores, labels=labels, tolerance=0.0)
    np.testing.assert_array_equal(found.predicted.numpy(), scores.argmax(dim=1).numpy())
    for k in (1, 5):
        hits = found.hits[f"top{k}"]
        assert hits.shape == (60,)
        assert hits.dtype == torch.float64
        assert float(hits.mean()) == pytest.approx(top_k_accuracy_score(labels, scores, k=k))


@pytest.mark.parametrize(("num_classes", "names"), [(1, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})])
def test_classify__has_top5_for_more_than_five_classes(num_classes: int, names: set[str]) -> None:
    scores, labels = some_scores(num_classes)
    assert classify(scores=scores, labels=labels, tolerance=0.0).hits.keys() == names


def test_classify__shares_the_hit_among_tied_classes() -> None:
    scores = torch.tensor([[0.5, 0.5 + 1e-7, 0.1, 0.0, 0.0, 0.0, 0.0]])
    for label, top1, top5 in ((0, 0.5, 1.0), (1, 0.5, 1.0), (2, 0.0, 1.0), (6, 0.0, 0.5)):
        found = classify(scores=scores, labels=torch.tensor([label]), tolerance=1e-6)
        assert {name: float(hits) for name, hits in found.hits.items()} == pytest.approx({"top1": top1, "top5": top5})
    assert float(classify(scores=scores, labels=torch.tensor([0]), tolerance=0.0).hits["top1"]) == 0.0


@pytest.mark.parametrize("labels", [[0, 1, 3], [0, 1], [0, -1, 1]])
def test_classify__refuses_labels_that_do_not_fit(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels must"):
        classify(scores=torch.eye(3), labels=torch.tensor(labels), tolerance=0.0)
