"""Samples of the training data, and the levels of scores among them."""

import numpy as np
import pytest

from data_schemas.errors import ProtoRKDError
from stages.components.calibration import fit
from stages.components.calibration.fit import mixed_scores, sample_rows, unit_vectors


def unit(num: int, seed: int) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).normal(0.3, 1, size=(num, 12)))


def test_mixed_scores__are_mean_and_nearest_of_the_scores_of_different_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_ROWS", 7)  # several blocks
    monkeypatch.setattr(fit, "_NEAREST_SHARE", 0.1)
    captions, images = unit(20, 0), unit(20, 1)
    scores = mixed_scores(captions, images)
    kinds = {"caption": captions, "image": images}
    for query, queries in kinds.items():
        for other, candidates in kinds.items():
            cosines = queries.astype(np.float64) @ candidates.T
            if query == other:
                cosines = cosines[~np.eye(20, dtype=bool)].reshape(20, 19)
            found = vars(scores)[f"{query}_to_{other}"]
            assert found.mean == pytest.approx(cosines.mean(), abs=1e-6)
            assert found.nearest == pytest.approx(np.sort(cosines, axis=1)[:, -2:].mean(), abs=1e-6)


def test_mixed_scores__compare_as_many_captions_as_images() -> None:
    captions, images = unit(30, 0), unit(3, 1)
    assert mixed_scores(captions, images) == mixed_scores(captions[[0, 14, 29]], images)


@pytest.mark.parametrize("num", [0, 1])
def test_mixed_scores__refuse_too_few_vectors(num: int) -> None:
    with pytest.raises(ProtoRKDError, match="must differ"):
        mixed_scores(unit(30, 0), unit(30, 1)[:num])


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
