import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.errors import ProtoRKDError
from stages.components.metrics import spectrum
from stages.evaluate.metrics import geometry
from stages.evaluate.metrics.geometry import geometry_metrics


def some_pairs(num_images: int = 30, *, dim: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(dim)
    caption_image = torch.cat([torch.arange(num_images), torch.arange(0, num_images, 3)])
    images = torch.randn(num_images, dim, generator=generator) + 0.5
    captions = images[caption_image] + torch.randn(len(caption_image), dim, generator=generator)
    return {"image_embeddings": images, "caption_embeddings": captions, "caption_image": caption_image}


def on_sphere(num_rows: int, dim: int) -> Tensor:
    return normalize(torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(dim)), dim=1)


def paired_with_itself(rows: Tensor) -> dict[str, Any]:
    return {"image_embeddings": rows, "caption_embeddings": rows, "caption_image": torch.arange(len(rows))}


def naive_metrics(pairs: dict[str, Any]) -> dict[str, float]:
    images, captions = (
        pairs[key].double().numpy() / np.linalg.norm(pairs[key].double().numpy(), axis=1, keepdims=True)
        for key in ("image_embeddings", "caption_embeddings")
    )
    distances = [np.sum((captions[row] - images[image]) ** 2) for row, image in enumerate(pairs["caption_image"])]
    metrics = {
        "modality_gap": np.linalg.norm(images.mean(axis=0) - captions.mean(axis=0)),
        "alignment": np.mean(distances),
    }
    for name, rows in (("images", images), ("captions", captions)):
        two = [(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
        spectrum = np.linalg.svd(np.cov(rows.T, bias=True), compute_uv=False)
        share = spectrum / spectrum.sum()
        metrics |= {
            f"self_similarity/{name}": np.mean([a @ b for a, b in two]),
            f"uniformity/{name}": np.log(np.mean([np.exp(-2 * np.sum((a - b) ** 2)) for a, b in two])),
            f"uniformity_num_rows/{name}": len(rows),
            f"feature_std/{name}": rows.std(axis=0).mean(),
            f"effective_rank/{name}": np.exp(-np.sum(share * np.log(share))),
        }
    return {key: float(value) for key, value in metrics.items()}


def test_geometry_metrics__agree_with_the_formulas() -> None:
    pairs = some_pairs()
    metrics = geometry_metrics(**pairs)
    assert metrics == pytest.approx(naive_metrics(pairs), rel=1e-5)
    assert all(type(value) is float for value in metrics.values())


def test_geometry_metrics__do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = some_pairs()
    expected = geometry_metrics(**pairs)
    monkeypatch.setattr(spectrum, "_BLOCK", 7)
    monkeypatch.setattr(geometry, "_MAX_DISTANCES", 100)
    assert geometry_metrics(**pairs) == pytest.approx(expected)


def test_geometry_metrics__ignore_scale_and_a_rotation_of_the_space() -> None:
    pairs = some_pairs()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    turned = {
        "image_embeddings": 7 * pairs["image_embeddings"] @ rotation,
        "caption_embeddings": 0.1 * pairs["caption_embeddings"] @ rotation,
        "caption_image": pairs["caption_image"],
    }
    expected = geometry_metrics(**pairs)
    metrics = geometry_metrics(**turned)
    for name in ("images", "captions"):  # measured along the axes, which have turned
        del metrics[f"feature_std/{name}"], expected[f"feature_std/{name}"]
    assert metrics == pytest.approx(expected, rel=1e-4)


def test_geometry_metrics__know_an_even_sphere() -> None:
    metrics = geometry_metrics(**paired_with_itself(on_sphere(4000, 3)))
    assert metrics["modality_gap"] == metrics["alignment"] == 0.0
    assert metrics["self_similarity/images"] == pytest.approx(0.0, abs=0.001)
    # The cosine of two points of a sphere in three dimensions is uniform from -1 to 1.
    assert metrics["uniformity/images"] == pytest.approx(math.log(math.exp(-4) * math.sinh(4) / 4), abs=0.01)
    assert metrics["feature_std/images"] == pytest.approx(3**-0.5, rel=0.01)
    assert metrics["effective_rank/images"] == pytest.approx(3.0, rel=0.001)


def test_geometry_metrics__know_a_collapsed_space() -> None:
    metrics = geometry_metrics(**paired_with_itself(torch.linspace(-1, 1, 8).repeat(20, 1)))
    assert metrics["self_similarity/images"] == pytest.approx(1.0)
    for measure in ("uniformity", "feature_std", "effective_rank"):
        assert metrics[f"{measure}/images"] == pytest.approx(0.0, abs=1e-6)


def test_geometry_metrics__know_opposite_spaces() -> None:
    rows = torch.tensor([[1.0, 0.0]]).repeat(5, 1)
    metrics = geometry_metrics(image_embeddings=rows, caption_embeddings=-rows, caption_image=torch.arange(5))
    assert metrics["modality_gap"] == pytest.approx(2.0)
    assert metrics["alignment"] == pytest.approx(4.0)


def test_effective_rank__counts_directions_of_equal_variance() -> None:
    rows = torch.cat([torch.eye(6)[:4], -torch.eye(6)[:4]])
    assert geometry_metrics(**paired_with_itself(rows))["effective_rank/images"] == pytest.approx(4.0)


def test_uniformity__of_many_rows_rests_on_a_seeded_sample() -> None:
    pairs = paired_with_itself(on_sphere(600, 4))
    whole, first, again, other = (
        geometry_metrics(**pairs, uniformity_rows=limit, seed=seed)
        for limit, seed in ((600, 0), (400, 0), (400, 0), (400, 1))
    )
    assert (whole["uniformity_num_rows/images"], first["uniformity_num_rows/images"]) == (600, 400)
    assert first == again
    assert first["uniformity/images"] != other["uniformity/images"]
    assert first["uniformity/images"] == pytest.approx(whole["uniformity/images"], abs=0.05)


def test_geometry_metrics__leave_pairs_out_for_a_single_row() -> None:
    metrics = geometry_metrics(**paired_with_itself(torch.eye(3)[:1]))
    assert metrics.keys() == {"modality_gap", "alignment"} | {
        f"{measure}/{name}" for measure in ("feature_std", "effective_rank") for name in ("images", "captions")
    }
    assert set(metrics.values()) == {0.0}


def test_geometry_metrics__refuse_embeddings_that_are_not_finite() -> None:
    with pytest.raises(ProtoRKDError, match="Image embeddings must be finite"):
        geometry_metrics(**paired_with_itself(torch.full((3, 2), torch.inf)))
