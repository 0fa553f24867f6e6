import numpy as np
import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.components.metrics.embedding_space import draw_rows, paired_rows, pearson, spearman


def test_correlations__agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    first = generator.integers(0, 6, 80).astype(float)  # many ties
    second = first + generator.normal(size=80)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, abs=1e-6)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-6)


@pytest.mark.parametrize("constant", [np.ones(5), 1 + 1e-8 * np.arange(5)])
def test_correlations__are_0_where_values_differ_by_rounding_alone(constant: np.ndarray) -> None:
    for correlate in (pearson, spearman):
        assert correlate(constant, np.arange(5.0)) == correlate(np.arange(5.0), constant) == 0.0


def test_spearman__ignores_any_rising_scale() -> None:
    values = np.array([0.1, 0.5, 0.2, 0.9])
    assert spearman(values, np.exp(9 * values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)


def test_draw_rows__are_distinct_ascending_and_seeded() -> None:
    rows = draw_rows(50, limit=20, seed=3)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 20
    assert rows.tolist() == draw_rows(50, limit=20, seed=3).tolist() != draw_rows(50, limit=20, seed=4).tolist()


@pytest.mark.parametrize("limit", [7, 8])
def test_draw_rows__are_all_where_they_fit(limit: int) -> None:
    assert draw_rows(7, limit=limit, seed=0).tolist() == list(range(7))


def test_paired_rows__have_unit_length() -> None:
    pair = paired_rows(
        image_embeddings=torch.randn(3, 5),
        caption_embeddings=1e30 * torch.randn(4, 5),
        caption_image=torch.arange(4) % 3,
    )
    assert pair.images.shape == (3, 5)
    assert pair.captions.shape == (4, 5)
    torch.testing.assert_close(torch.cat(pair[:2]).norm(dim=1), torch.ones(7))


@pytest.mark.parametrize(
    ("caption_image", "complaint"),
    [
        ([0, 1, 2], r"must have shape \(4,\)"),
        ([0, 1, 2, 3], "from 0 to 2; got 0 to 3"),
        ([0, -1, 2, 1], "from 0 to 2; got -1 to 2"),
        ([0, 2, 2, 0], "none for image 1"),
    ],
)
def test_paired_rows__refuse_captions_without_their_image(caption_image: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        paired_rows(
            image_embeddings=torch.ones(3, 2),
            caption_embeddings=torch.ones(4, 2),
            caption_image=torch.tensor(caption_image),
        )


def test_paired_rows__refuse_two_widths() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired_rows(
            image_embeddings=torch.ones(1, 2), caption_embeddings=torch.ones(1, 3), caption_image=torch.tensor([0])
        )


@pytest.mark.parametrize(("broken", "name"), [("image_embeddings", "Image"), ("caption_embeddings", "Caption")])
def test_paired_rows__refuse_what_is_not_finite(broken: str, name: str) -> None:
    pair = {"image_embeddings": torch.ones(2, 2), "caption_embeddings": torch.ones(2, 2)}
    pair[broken][1, 0] = torch.nan
    with pytest.raises(ProtoRKDError, match=rf"{name} embeddings must be finite; .* row 1\."):
        paired_rows(**pair, caption_image=torch.arange(2))
