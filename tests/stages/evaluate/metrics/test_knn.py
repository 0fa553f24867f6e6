from typing import Any

import numpy as np
import pytest
import torch
from faiss_doubles import DAMAGES, damage_faiss, install_fake_faiss
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.evaluate.metrics.knn import knn_votes, neighbours_by_faiss, neighbours_by_torch

CPU = torch.device("cpu")


def some_splits(num_classes: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(num_classes)
    centres = torch.randn(num_classes, 6, generator=generator)
    splits: dict[str, Any] = {"num_classes": num_classes}
    for split, size in (("train", 80), ("test", 40)):
        labels = torch.randint(num_classes, (size,), generator=generator)
        splits[f"{split}_embeddings"] = centres[labels] + torch.randn(size, 6, generator=generator)
        splits[f"{split}_labels"] = labels
    return splits


def asked(splits: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return what the vote takes: all but the labels of the test images."""
    return (
        {name: value for name, value in splits.items() if name != "test_labels"}
        | {"temperature": 0.07, "device": CPU}
        | options
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (80, 0.5)])
def test_knn_votes__agree_with_scikit_learn(k: int, temperature: float) -> None:
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
    votes = knn_votes(**asked(splits, k=k, temperature=temperature))
    assert votes.shape == (40, 8)
    np.testing.assert_allclose(votes / votes.sum(dim=1, keepdim=True), chances, atol=1e-5)


def test_knn_neighbours__are_the_same_by_faiss_and_by_torch() -> None:
    pytest.importorskip("faiss")
    splits = some_splits()
    rows = {"train": normalize(splits["train_embeddings"], dim=1), "test": normalize(splits["test_embeddings"], dim=1)}
    by_faiss, by_torch = (find(**rows, k=7, device=CPU) for find in (neighbours_by_faiss, neighbours_by_torch))
    assert by_faiss[0].shape == by_faiss[1].shape == (40, 7)
    torch.testing.assert_close(by_faiss[0], by_torch[0])
    assert by_faiss[1].tolist() == by_torch[1].tolist()


@pytest.mark.parametrize("damage", DAMAGES)
def test_knn_votes__are_the_same_without_faiss(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = asked(some_splits(), k=20)
    expected = knn_votes(**given)
    damage_faiss(damage, monkeypatch)
    torch.testing.assert_close(knn_votes(**given), expected, rtol=1e-4, atol=1e-6)


def test_knn_votes__ask_faiss_for_the_given_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = asked(some_splits(), k=20)
    expected = knn_votes(**given)
    fake = install_fake_faiss(monkeypatch)
    votes = knn_votes(**given | {"device": torch.device("cuda:1")})
    assert fake.moved == [1]
    torch.testing.assert_close(votes, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("k", "num_gpus", "by_torch"), [(2048, 1, False), (2049, 1, True), (20, 0, True)])
def test_knn_votes__on_a_gpu_are_found_by_torch_where_faiss_cannot(
    k: int, num_gpus: int, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []

    def search_there(*, device: torch.device, **given: Any) -> Any:
        searches.append(device)
        return neighbours_by_torch(**given, device=CPU)

    monkeypatch.setattr("stages.evaluate.metrics.knn.neighbours_by_torch", search_there)
    fake = install_fake_faiss(monkeypatch, num_gpus=num_gpus)
    device = torch.device("cuda:0")
    splits = {"train_embeddings": torch.randn(2049, 4), "train_labels": torch.zeros(2049, dtype=torch.int64)}
    knn_votes(**splits, test_embeddings=torch.eye(4), num_classes=1, k=k, temperature=1.0, device=device)
    assert (searches, fake.moved) == (([device], []) if by_torch else ([], [0]))


def test_knn_votes__on_the_cpu_leave_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install_fake_faiss(monkeypatch)
    knn_votes(**asked(some_splits(), k=20))
    assert (fake.moved, fake.num_counts) == ([], 0)


def test_knn_neighbours__do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = some_splits()
    rows = {"train": splits["train_embeddings"], "test": splits["test_embeddings"]}
    expected = neighbours_by_torch(**rows, k=3, device=CPU)[1]
    monkeypatch.setattr("stages.evaluate.metrics.knn._MAX_SCORES", 1)
    assert torch.equal(neighbours_by_torch(**rows, k=3, device=CPU)[1], expected)


def test_knn_votes__are_none_for_classes_without_neighbours() -> None:
    votes = knn_votes(
        train_embeddings=torch.eye(6),
        train_labels=torch.arange(6),
        test_embeddings=torch.eye(6)[:1],
        num_classes=7,
        k=1,
        temperature=0.07,
        device=CPU,
    )
    assert votes.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


def test_knn_votes__stand_a_low_temperature() -> None:
    splits = some_splits()
    nearest = knn_votes(**asked(splits, k=1)).argmax(dim=1)
    assert torch.equal(knn_votes(**asked(splits, k=20, temperature=1e-6)).argmax(dim=1), nearest)


@pytest.mark.parametrize("k", [0, 81])
def test_knn_votes__refuse_more_neighbours_than_training_images(k: int) -> None:
    with pytest.raises(ProtoRKDError, match=rf"--knn-k must be from 1 to .* 80; got {k}\."):
        knn_votes(**asked(some_splits(), k=k))


def test_knn_votes__refuse_labels_of_another_length() -> None:
    splits = some_splits()
    with pytest.raises(ValueError, match=r"shape \(80,\)"):
        knn_votes(**asked({**splits, "train_labels": splits["train_labels"][1:]}, k=3))
