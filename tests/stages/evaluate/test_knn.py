import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.evaluate.knn import knn_metrics, neighbours_by_faiss, neighbours_by_torch


def some_splits(num_classes: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    centres = torch.randn(num_classes, 6, generator=generator)
    splits = {}
    for split, size in (("train", 80), ("test", 40)):
        labels = torch.randint(num_classes, (size,), generator=generator)
        splits[f"{split}_embeddings"] = centres[labels] + torch.randn(size, 6, generator=generator)
        splits[f"{split}_labels"] = labels
    return splits


def without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (80, 0.5)])
def test_knn_metrics__agree_with_scikit_learn(k: int, temperature: float) -> None:
    from sklearn.metrics import top_k_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier

    splits = some_splits()
    classifier = KNeighborsClassifier(
        n_neighbors=k,
        algorithm="brute",
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / temperature),
    )
    classifier.fit(splits["train_embeddings"].double().numpy(), splits["train_labels"].numpy())
    chances = classifier.predict_proba(splits["test_embeddings"].double().numpy())
    metrics = knn_metrics(**splits, k=k, temperature=temperature)
    labels = splits["test_labels"].numpy()
    assert metrics["top1"] == pytest.approx(100 * top_k_accuracy_score(labels, chances, k=1))
    if k == 80:  # every class has neighbours, so that no votes are tied at zero
        assert metrics["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, chances, k=5))


def test_knn_neighbours__are_the_same_by_faiss_and_by_torch() -> None:
    pytest.importorskip("faiss")
    splits = some_splits()
    rows = {"train": normalize(splits["train_embeddings"], dim=1), "test": normalize(splits["test_embeddings"], dim=1)}
    by_faiss, by_torch = neighbours_by_faiss(**rows, k=7), neighbours_by_torch(**rows, k=7)
    assert by_faiss[0].shape == by_faiss[1].shape == (40, 7)
    torch.testing.assert_close(by_faiss[0], by_torch[0])
    assert by_faiss[1].tolist() == by_torch[1].tolist()


def test_knn_metrics__are_the_same_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = some_splits()
    expected = knn_metrics(**splits)
    without_faiss(monkeypatch)
    assert knn_metrics(**splits) == pytest.approx(expected)


def test_knn_neighbours__do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = some_splits()
    rows = {"train": splits["train_embeddings"], "test": splits["test_embeddings"]}
    expected = neighbours_by_torch(**rows, k=3)[1]
    monkeypatch.setattr("stages.evaluate.knn._MAX_SCORES", 1)
    assert torch.equal(neighbours_by_torch(**rows, k=3)[1], expected)


def test_knn_metrics__leave_top5_out_for_few_classes() -> None:
    assert knn_metrics(**some_splits(num_classes=5), k=3).keys() == {"top1"}


def test_knn_metrics__share_the_hit_among_classes_without_votes() -> None:
    metrics = knn_metrics(
        train_embeddings=torch.eye(6),
        train_labels=torch.arange(6),
        test_embeddings=torch.eye(6)[:1],
        test_labels=torch.tensor([3]),
        k=1,
    )
    assert metrics == pytest.approx({"top1": 0.0, "top5": 80.0})  # four places for the five classes without a vote


def test_knn_metrics__stand_a_low_temperature() -> None:
    splits = some_splits()
    expected = knn_metrics(**splits, k=1)["top1"]
    assert knn_metrics(**splits, k=20, temperature=1e-6)["top1"] == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, 81])
def test_knn_metrics__refuse_more_neighbours_than_training_images(k: int) -> None:
    with pytest.raises(ProtoRKDError, match=rf"--knn-k must be from 1 to .* 80; got {k}\."):
        knn_metrics(**some_splits(), k=k)


def test_knn_metrics__refuse_labels_of_another_length() -> None:
    splits = some_splits()
    with pytest.raises(ValueError, match=r"shape \(80,\)"):
        knn_metrics(**{**splits, "train_labels": splits["train_labels"][1:]})
