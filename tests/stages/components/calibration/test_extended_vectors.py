"""The calibrated score is the inner product of extended vectors, and ranks as its definition does."""

import numpy as np
import pytest

from data_schemas.calibration import MixedScores, QueryBank, ScoreLevels
from stages.components.calibration import extended_vectors
from stages.components.calibration.extended_vectors import (
    extend_captions,
    extend_images,
    extend_queries,
    nearness_to_bank,
    plain_images,
)

SCORES = MixedScores(ScoreLevels(0.1, 0.15), ScoreLevels(0.2, 0.3), ScoreLevels(0.3, 0.5), ScoreLevels(0.15, 0.2))


def unit(num: int, seed: int, dim: int = 12) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


IMAGES, QUERIES, BANK = unit(30, 0), unit(20, 1), QueryBank(unit(40, 2), 0.05)


def defined_scores() -> np.ndarray:
    """Score as arXiv:2112.12777 defines it, in float64: the logarithm of the softmax over the bank, times the rest."""
    bank = np.exp(BANK.captions.astype(np.float64) @ IMAGES.T.astype(np.float64) / BANK.temperature)
    return QUERIES.astype(np.float64) @ IMAGES.T - BANK.temperature * np.log(bank.mean(axis=0))


def test_query_bank__is_the_inner_product_of_extended_vectors() -> None:
    scores = extend_queries(QUERIES, kind="text") @ extend_images(IMAGES, BANK).T
    np.testing.assert_allclose(scores, defined_scores(), atol=1e-6)


def test_query_bank__ranks_as_the_inverted_softmax_does() -> None:
    extended = extend_queries(QUERIES, kind="text") @ extend_images(IMAGES, BANK).T
    raised = np.exp(QUERIES.astype(np.float64) @ IMAGES.T / BANK.temperature)
    softmax = raised / np.exp(BANK.captions.astype(np.float64) @ IMAGES.T / BANK.temperature).sum(axis=0)
    assert np.array_equal(np.argsort(-extended, axis=1), np.argsort(-softmax, axis=1))


def test_query_bank__holds_back_an_image_that_is_near_to_every_caption() -> None:
    hub = np.eye(1, IMAGES.shape[1], dtype=np.float32)
    around = BANK.captions + hub
    bank = QueryBank(around / np.linalg.norm(around, axis=1, keepdims=True), 0.05)
    assert nearness_to_bank(np.concatenate([IMAGES, hub]), bank).argmax() == len(IMAGES)


def test_nearness__does_not_overflow_and_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearness_to_bank(IMAGES, BANK)
    monkeypatch.setattr(extended_vectors, "_MAX_SCORES", 3 * len(BANK.captions))
    np.testing.assert_allclose(nearness_to_bank(IMAGES, BANK), whole, atol=1e-7)
    cold = nearness_to_bank(IMAGES, QueryBank(BANK.captions, 1e-5))
    np.testing.assert_allclose(cold, (IMAGES @ BANK.captions.T).max(axis=1), atol=1e-3)  # the nearest caption alone


def test_mixed__is_the_inner_product_of_extended_vectors() -> None:
    scores = extend_queries(QUERIES, kind="text") @ extend_images(IMAGES, SCORES).T
    wanted = (QUERIES @ IMAGES.T - 0.1) / 0.05 * 0.1 + 0.2
    np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_mixed__leaves_captions_and_their_scores_bit_for_bit() -> None:
    captions = extend_captions(unit(9, 3))
    assert np.array_equal(captions[:, :-1], unit(9, 3))
    assert not captions[:, -1].any()
    np.testing.assert_allclose(extend_queries(QUERIES, kind="text") @ captions.T, QUERIES @ unit(9, 3).T, atol=1e-6)


def test_extend_queries__of_images_leave_cosines() -> None:
    scores = extend_queries(QUERIES, kind="picture") @ extend_images(IMAGES, BANK).T
    np.testing.assert_allclose(scores, QUERIES @ IMAGES.T, atol=1e-6)


@pytest.mark.parametrize("calibration", [BANK, SCORES])
def test_extend_images__leaves_rows_of_zeros(calibration: QueryBank | MixedScores) -> None:
    images = IMAGES.copy()
    images[3] = 0
    extended = extend_images(images, calibration)
    assert (extended.shape, extended.dtype) == ((30, 13), np.float32)
    assert np.flatnonzero(~extended.any(axis=1)).tolist() == [3]


@pytest.mark.parametrize("calibration", [BANK, SCORES])
def test_plain_images__takes_the_calibration_out_again(calibration: QueryBank | MixedScores) -> None:
    plain = plain_images(extend_images(IMAGES, calibration), calibration.kind)
    np.testing.assert_allclose(plain, IMAGES, atol=1e-6)
