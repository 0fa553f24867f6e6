"""Samples of the training data, and the moments of scores between them."""

import numpy as np
import pytest

from data_schemas.errors import ProtoRKDError
from stages.components.calibration.fit import mixed_scores, sample_rows, unit_vectors


def unit(num: int, seed: int) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).normal(0.3, 1, size=(num, 12)))


def test_mixed_scores__are_mean_and_deviation_over_all_pairs_of_different_vectors() -> None:
    captions, images = unit(30, 0), unit(20, 1)
    scores = mixed_scores(captions, images)
    across = captions.astype(np.float64) @ images.T
    assert scores.caption_to_image.mean == pytest.approx(across.mean())
    assert scores.caption_to_image.deviation == pytest.approx(across.std())
    for found, rows in ((scores.caption_to_caption, captions), (scores.image_to_image, images)):
        pairs = (rows.astype(np.float64) @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert found.mean == pytest.approx(pairs.mean())
        assert found.deviation == pytest.approx(pairs.std())


def test_mixed_scores__refuse_a_student_that_has_collapsed() -> None:
    with pytest.raises(ProtoRKDError, match="all alike"):
        mixed_scores(unit(30, 0), np.repeat(unit(1, 1), 20, axis=0))


def test_sample_rows__are_always_the_same_and_ascending() -> None:
    drawn = sample_rows(1000, 10, seed=0)
    assert np.array_equal(drawn, sample_rows(1000, 10, seed=0))
    assert len(np.unique(drawn)) == 10
    assert (np.diff(drawn) > 0).all()
    assert sample_rows(3, 10, seed=0).tolist() == [0, 1, 2]


def test_unit_vectors__leaves_out_rows_of_zeros() -> None:
    rows = np.float16([[3, 4], [0, 0], [0, 2]])
    np.testing.assert_allclose(unit_vectors(rows), [[0.6, 0.8], [0, 1]], atol=1e-6)
