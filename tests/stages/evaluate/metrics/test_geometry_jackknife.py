from typing import Any

import numpy as np
import pytest
import torch

from stages.components.metrics import spectrum
from stages.evaluate.metrics import geometry
from stages.evaluate.metrics.geometry import geometry_metrics
from stages.evaluate.metrics.geometry_jackknife import geometry_replicates


def some_pairs(num_images: int = 60, *, dim: int = 5) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(dim)
    caption_image = torch.cat([torch.arange(num_images), torch.arange(0, num_images, 3)])
    images = (torch.randn(num_images, dim, generator=generator) + 0.5) * torch.linspace(0.2, 1, dim)
    captions = images[caption_image] + torch.randn(len(caption_image), dim, generator=generator)
    return {"image_embeddings": images, "caption_embeddings": captions, "caption_image": caption_image}


def without(pairs: dict[str, Any], left_out: torch.Tensor) -> dict[str, Any]:
    """Return the pairs of the other images, counted anew."""
    kept = (~left_out).nonzero().flatten().tolist()
    captions = [row for row, image in enumerate(pairs["caption_image"].tolist()) if image in kept]
    return {
        "image_embeddings": pairs["image_embeddings"][kept],
        "caption_embeddings": pairs["caption_embeddings"][captions],
        "caption_image": torch.tensor([kept.index(int(pairs["caption_image"][row])) for row in captions]),
    }


@pytest.mark.parametrize("blocks", [(8192, 2**24), (7, 100)])
def test_geometry_replicates__are_the_metrics_without_each_group(
    blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "_BLOCK", blocks[0])
    monkeypatch.setattr(geometry, "_MAX_DISTANCES", blocks[1])
    pairs, groups = some_pairs(), torch.arange(60) % 20
    found = geometry_replicates(**pairs, groups=groups)
    naive = [geometry_metrics(**without(pairs, groups == group)) for group in range(20)]
    assert found.keys() == {name for name in naive[0] if not name.startswith("uniformity_num_rows")}
    for name, values in found.items():
        assert values.shape == (20,)
        expected = np.array([each[name] for each in naive])
        if name.startswith("effective_rank"):  # to first order
            assert values.std() == pytest.approx(expected.std(), rel=0.1), name
            assert np.corrcoef(values, expected)[0, 1] > 0.98, name
        else:
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_geometry_replicates__keep_to_the_sample_of_uniformity() -> None:
    pairs, groups = some_pairs(), torch.arange(60) % 20
    sampled = geometry_replicates(**pairs, groups=groups, uniformity_rows=30, seed=0)
    whole = geometry_metrics(**pairs, uniformity_rows=30, seed=0)
    for name in ("images", "captions"):
        assert sampled[f"uniformity/{name}"].mean() == pytest.approx(whole[f"uniformity/{name}"], abs=0.02)


def test_geometry_replicates__stand_groups_that_the_sample_of_uniformity_has_none_of() -> None:
    pairs, groups = some_pairs(), torch.arange(60) // 3
    found = geometry_replicates(**pairs, groups=groups, uniformity_rows=4, seed=0)
    assert np.isfinite(found["uniformity/images"]).all()
    assert len(set(found["uniformity/images"].tolist())) < 10  # a group outside the sample changes nothing


def test_geometry_replicates__know_a_collapsed_space() -> None:
    rows = torch.linspace(-1, 1, 8).repeat(40, 1)
    pairs = {"image_embeddings": rows, "caption_embeddings": rows, "caption_image": torch.arange(40)}
    found = geometry_replicates(**pairs, groups=torch.arange(40) % 20)
    for name, expected in {"effective_rank": 0, "self_similarity": 1, "feature_std": 0, "uniformity": 0}.items():
        np.testing.assert_allclose(found[f"{name}/images"], expected, atol=1e-6)


def test_geometry_replicates__leave_pairs_out_where_a_group_leaves_a_single_row() -> None:
    pairs = {
        "image_embeddings": torch.eye(3)[:2],
        "caption_embeddings": torch.eye(3)[1:],
        "caption_image": torch.arange(2),
    }
    found = geometry_replicates(**pairs, groups=torch.arange(2))
    assert found.keys() == {"modality_gap", "alignment"} | {
        f"{measure}/{name}" for measure in ("feature_std", "effective_rank") for name in ("images", "captions")
    }
