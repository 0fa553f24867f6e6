from typing import Any

import numpy as np
import pytest
import torch
from faiss_doubles import DAMAGES, damage_faiss
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.evaluate.metrics.clustering import clustering_metrics, clusters_by_faiss, clusters_by_sklearn, find_clusters


def some_classes(num_classes: int = 4, *, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(20 * num_classes) % num_classes
    return torch.eye(6)[labels] + noise * torch.randn(len(labels), 6, generator=generator), labels


def pair_counts(labels: Tensor, clusters: Tensor) -> tuple[float, float, float, float]:
    """Pairs of images together in both, in classes alone, in clusters alone, and all pairs."""
    upper = torch.ones(len(labels), len(labels)).triu(1).bool()
    alike = (labels[:, None] == labels)[upper]
    together = (clusters[:, None] == clusters)[upper]
    return float((alike & together).sum()), float(alike.sum()), float(together.sum()), float(len(alike))


@pytest.mark.parametrize("find", [clusters_by_faiss, clusters_by_sklearn])
def test_clusters__are_the_classes_where_these_lie_apart(find: Any) -> None:
    if find is clusters_by_faiss:
        pytest.importorskip("faiss")
    rows, labels = some_classes()
    clusters = find(rows.numpy(), num_clusters=4, seed=0)
    assert clusters.shape == (80,)
    assert clusters.dtype == torch.int64
    assert len({(int(label), int(cluster)) for label, cluster in zip(labels, clusters, strict=True)}) == 4
    assert torch.equal(clusters, find(rows.numpy(), num_clusters=4, seed=0))


@pytest.mark.parametrize("damage", DAMAGES)
def test_find_clusters__works_without_faiss(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_faiss(damage, monkeypatch)
    rows, labels = some_classes()
    clusters = find_clusters(rows, num_clusters=4)
    assert clustering_metrics(image_embeddings=rows, labels=labels, clusters=clusters)["ari"] == 1.0


def test_find_clusters__ignores_scale() -> None:
    rows, _ = some_classes()
    scale = torch.arange(1.0, 81.0)[:, None]
    assert torch.equal(find_clusters(scale * rows, num_clusters=4), find_clusters(rows, num_clusters=4))


@pytest.mark.parametrize("find", [clusters_by_faiss, clusters_by_sklearn])
def test_clusters__stand_a_collapsed_student(find: Any) -> None:
    if find is clusters_by_faiss:
        pytest.importorskip("faiss")
    rows, labels = torch.ones(20, 3) / 3**0.5, torch.arange(20) % 4
    metrics = clustering_metrics(
        image_embeddings=rows, labels=labels, clusters=find(rows.numpy(), num_clusters=4, seed=0)
    )
    assert metrics["ari"] == pytest.approx(0.0)
    assert metrics["silhouette/classes"] == pytest.approx(0.0)
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize("num_clusters", [0, 81])
def test_find_clusters__refuses_more_clusters_than_images(num_clusters: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 80; got {num_clusters}"):
        find_clusters(some_classes()[0], num_clusters=num_clusters)


def test_find_clusters__refuses_embeddings_that_are_not_finite() -> None:
    with pytest.raises(ProtoRKDError, match="Image embeddings must be finite"):
        find_clusters(torch.full((4, 2), torch.nan), num_clusters=2)


def test_clustering_metrics__agree_with_the_formulas() -> None:
    rows, labels = some_classes(3, noise=0.4)
    clusters = find_clusters(rows, num_clusters=3)
    metrics = clustering_metrics(image_embeddings=rows, labels=labels, clusters=clusters)

    both, alike, together, pairs = pair_counts(labels, clusters)
    chance = alike * together / pairs
    assert metrics["ari"] == pytest.approx((both - chance) / ((alike + together) / 2 - chance))
    assert 0 < metrics["ami"] < 1

    unit = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    for name, groups in (("classes", labels.numpy()), ("clusters", clusters.numpy())):
        members = [unit[groups == group] for group in range(3)]
        centres = [part.mean(axis=0) for part in members]
        between = sum(
            len(part) * np.sum((centre - unit.mean(axis=0)) ** 2) for part, centre in zip(members, centres, strict=True)
        )
        within = sum(np.sum((part - centre) ** 2) for part, centre in zip(members, centres, strict=True))
        assert metrics[f"calinski_harabasz/{name}"] == pytest.approx(between / within * (60 - 3) / 2, rel=1e-4)
        sizes = [np.linalg.norm(part - centre, axis=1).mean() for part, centre in zip(members, centres, strict=True)]
        worst = [
            max((sizes[i] + sizes[j]) / np.linalg.norm(centres[i] - centres[j]) for j in range(3) if j != i)
            for i in range(3)
        ]
        assert metrics[f"davies_bouldin/{name}"] == pytest.approx(np.mean(worst), rel=1e-4)
        distances = np.linalg.norm(unit[:, None] - unit, axis=2)
        widths = []
        for row, group in enumerate(groups):
            own = distances[row, groups == group].sum() / (np.sum(groups == group) - 1)
            next_best = min(distances[row, groups == other].mean() for other in range(3) if other != group)
            widths.append((next_best - own) / max(own, next_best))
        assert metrics[f"silhouette/{name}"] == pytest.approx(np.mean(widths), abs=1e-4)


def test_clustering_metrics__ignore_the_numbers_of_clusters_and_a_rotation() -> None:
    rows, labels = some_classes(noise=0.4)
    clusters = find_clusters(rows, num_clusters=4)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    expected = clustering_metrics(image_embeddings=rows, labels=labels, clusters=clusters)
    metrics = clustering_metrics(image_embeddings=rows @ rotation, labels=labels, clusters=(clusters + 1) % 4)
    assert metrics == pytest.approx(expected, rel=1e-4)


def test_agreement__is_1_for_the_classes_and_near_0_for_chance() -> None:
    rows, labels = some_classes()
    same = clustering_metrics(image_embeddings=rows, labels=labels, clusters=labels)
    assert (same["ari"], same["ami"]) == pytest.approx((1.0, 1.0))
    unrelated = clustering_metrics(image_embeddings=rows, labels=labels, clusters=torch.arange(80) // 20)
    assert (unrelated["ari"], unrelated["ami"]) == pytest.approx((0.0, 0.0), abs=0.06)


def test_silhouette__of_many_images_rests_on_a_seeded_sample() -> None:
    rows, labels = some_classes(noise=0.3)
    first, again, other = (
        clustering_metrics(image_embeddings=rows, labels=labels, clusters=labels, silhouette_rows=40, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first["silhouette/classes"] != other["silhouette/classes"]


def test_clustering_metrics__leave_the_shape_out_for_a_single_group() -> None:
    rows, labels = some_classes()
    metrics = clustering_metrics(image_embeddings=rows, labels=labels, clusters=torch.zeros(80, dtype=torch.int64))
    assert {key for key in metrics if key.endswith("/clusters")} == set()
    assert "silhouette/classes" in metrics


def test_clustering_metrics__refuse_labels_of_another_length() -> None:
    rows, labels = some_classes()
    with pytest.raises(ValueError, match=r"shape \(80,\)"):
        clustering_metrics(image_embeddings=rows, labels=labels[1:], clusters=labels)
