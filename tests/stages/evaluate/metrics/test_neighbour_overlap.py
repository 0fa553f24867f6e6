from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.components.metrics import space_comparison
from stages.evaluate.metrics.neighbour_overlap import neighbourhood_chance, neighbourhood_metrics


def some_pairs(num_images: int = 40, *, noise: float = 1.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(num_images)
    caption_image = torch.cat([torch.arange(num_images), torch.arange(0, num_images, 3)])
    images = torch.randn(num_images, 6, generator=generator)
    captions = images[caption_image] + noise * torch.randn(len(caption_image), 6, generator=generator)
    return {"image_embeddings": images, "caption_embeddings": captions, "caption_image": caption_image}


def spaces(pairs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    captions = normalize(pairs["caption_embeddings"].double(), dim=1)
    images = normalize(pairs["image_embeddings"].double(), dim=1)
    means = [captions[pairs["caption_image"] == image].mean(dim=0) for image in range(len(images))]
    return images, normalize(torch.stack(means), dim=1)


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Return the unbiased estimator, as it stands in the paper: equation 3 of arXiv:2010.15327."""
    n, one = len(first), np.ones(len(first))
    first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    total = (
        np.trace(first @ second)
        + (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ first @ second @ one)
    )
    return float(total / (n * (n - 3)))


def test_neighbour_overlap__agrees_with_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    pairs = some_pairs()
    found = [NearestNeighbors(n_neighbors=5).fit(rows).kneighbors(return_distance=False) for rows in spaces(pairs)]
    shared = [len(set(student) & set(teacher)) for student, teacher in zip(*found, strict=True)]
    assert neighbourhood_metrics(**pairs, k=5)["neighbour_overlap@5"] == pytest.approx(100 * np.mean(shared) / 5)


def test_similarity_structures__agree_with_the_formulas() -> None:
    stats = pytest.importorskip("scipy.stats")
    pairs = some_pairs()
    student, teacher = ((rows @ rows.T).numpy() for rows in spaces(pairs))
    upper = np.triu_indices(40, 1)
    metrics = neighbourhood_metrics(**pairs)
    expected = stats.spearmanr(student[upper], teacher[upper]).statistic
    assert metrics["similarity_spearman"] == pytest.approx(expected, abs=1e-5)
    strength = (hsic(student, student) * hsic(teacher, teacher)) ** 0.5
    assert metrics["cka"] == pytest.approx(hsic(student, teacher) / strength, abs=1e-5)


def test_neighbourhood_metrics__know_a_perfect_student() -> None:
    perfect = {"neighbour_overlap@10": 100.0, "similarity_spearman": 1.0, "cka": 1.0}
    pairs = some_pairs(noise=0.0)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert neighbourhood_metrics(**pairs) == pytest.approx(perfect)
    turned = {**pairs, "image_embeddings": 9 * pairs["image_embeddings"] @ rotation}
    assert neighbourhood_metrics(**turned) == pytest.approx(perfect, abs=1e-4)


@pytest.mark.parametrize("collapsed", [torch.zeros(40, 6), torch.linspace(-1, 1, 6).repeat(40, 1)])
def test_neighbourhood_metrics__score_a_collapsed_student_as_chance(collapsed: Tensor) -> None:
    metrics = neighbourhood_metrics(**{**some_pairs(), "image_embeddings": collapsed})
    assert metrics == pytest.approx(neighbourhood_chance(num_images=40))
    assert metrics["neighbour_overlap@10"] == pytest.approx(100 * 10 / 39)


def test_neighbourhood_metrics__are_near_chance_for_unrelated_spaces() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 300, 64, generator=generator)
    metrics = neighbourhood_metrics(
        image_embeddings=student, caption_embeddings=teacher, caption_image=torch.arange(300)
    )
    assert metrics["neighbour_overlap@10"] == pytest.approx(100 * 10 / 299, abs=1.0)
    assert metrics["similarity_spearman"] == pytest.approx(0.0, abs=0.02)
    assert metrics["cka"] == pytest.approx(0.0, abs=0.05)  # the biased estimator gives 0.18


def test_neighbour_overlap__shares_places_among_tied_neighbours() -> None:
    # For the teacher images 1, 2 and 3 are equally near to image 0; for the student 1 is nearest.
    student = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    teacher = torch.eye(4)
    metrics = neighbourhood_metrics(
        image_embeddings=torch.cat([student, torch.zeros(4, 2)], dim=1),
        caption_embeddings=teacher,
        caption_image=torch.arange(4),
        k=1,
    )
    assert metrics["neighbour_overlap@1"] == pytest.approx(100 / 3)


def test_neighbour_overlap__does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = neighbourhood_metrics(**some_pairs())
    monkeypatch.setattr(space_comparison, "_MAX_SCORES", 100)
    assert neighbourhood_metrics(**some_pairs()) == pytest.approx(expected)


def test_similarity_structures__of_many_images_rest_on_a_seeded_sample() -> None:
    pairs = some_pairs(200)
    whole, first, again, other = (
        neighbourhood_metrics(**pairs, sample_size=size, seed=seed)
        for size, seed in ((200, 0), (120, 0), (120, 0), (120, 1))
    )
    assert first == again
    assert first["cka"] != other["cka"]
    assert first["neighbour_overlap@10"] == whole["neighbour_overlap@10"]
    assert first["cka"] == pytest.approx(whole["cka"], abs=0.1)


@pytest.mark.parametrize("num_images", [1, 3, 4, 10, 11])
def test_neighbourhood_metrics__leave_out_what_a_set_is_too_small_for(num_images: int) -> None:
    metrics = neighbourhood_metrics(**some_pairs(num_images))
    assert metrics.keys() == neighbourhood_chance(num_images=num_images).keys()
    assert ("neighbour_overlap@10" in metrics) == (num_images > 10)
    assert ("cka" in metrics) == ("similarity_spearman" in metrics) == (num_images > 3)


def test_neighbourhood_metrics__refuse_no_neighbours() -> None:
    with pytest.raises(ValueError, match="k must be a whole number from 1; got 0"):
        neighbourhood_metrics(**some_pairs(), k=0)


def test_neighbourhood_metrics__refuse_embeddings_that_are_not_finite() -> None:
    pairs = some_pairs()
    pairs["caption_embeddings"][2] = torch.nan
    with pytest.raises(ProtoRKDError, match=r"Caption embeddings must be finite; .* row 2\."):
        neighbourhood_metrics(**pairs)
