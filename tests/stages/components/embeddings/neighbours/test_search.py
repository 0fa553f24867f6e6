"""The search of neighbours against plain NumPy, in blocks of any size."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.components.embeddings.neighbours import search
from stages.components.embeddings.neighbours.search import NearestRows

CPU = torch.device("cpu")


def unit(num: int, dim: int = 5, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reference(rows: NDArray[np.float32], num: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    cosines = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :num]
    return order, np.take_along_axis(cosines, order, axis=1)


@pytest.mark.parametrize(("queries", "scores"), [(1024, 1 << 24), (7, 7 * 10), (1, 1), (50, 50 * 3)])
def test_nearest__are_those_of_numpy(queries: int, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_QUERIES", queries)
    monkeypatch.setattr(search, "_MAX_SCORES", scores)
    rows = unit(50)
    found = NearestRows(torch.from_numpy(rows), CPU).of(0, 50, num_neighbours=4)
    expected_rows, expected_cosines = reference(rows, 4)
    np.testing.assert_array_equal(found.rows, expected_rows)
    np.testing.assert_allclose(found.cosines, expected_cosines, atol=1e-6)
    assert (found.rows.dtype, found.cosines.dtype) == (np.int64, np.float32)


def test_nearest__of_some_rows_are_those_of_all() -> None:
    nearest = NearestRows(torch.from_numpy(unit(50)), CPU)
    whole = nearest.of(0, 50, num_neighbours=4)
    part = nearest.of(13, 29, num_neighbours=4)
    np.testing.assert_array_equal(part.rows, whole.rows[13:29])


def test_nearest__counts_equal_rows_and_takes_the_earlier_first() -> None:
    rows = unit(9)
    rows[[2, 5, 8]] = rows[2]
    found = NearestRows(torch.from_numpy(rows), CPU).of(0, 9, num_neighbours=3)
    assert found.rows[[2, 5, 8], :2].tolist() == [[5, 8], [2, 8], [2, 5]]
    np.testing.assert_allclose(found.cosines[[2, 5, 8], :2], 1, atol=1e-6)
    assert found.cosines.max() <= 1


@pytest.mark.parametrize("num", [1, 2, 3])
def test_nearest__leaves_places_empty_where_there_are_too_few(num: int) -> None:
    found = NearestRows(torch.from_numpy(unit(num)), CPU).of(0, num, num_neighbours=5)
    assert found.rows.shape == (num, 5)
    assert ((found.rows >= 0).sum(axis=1) == num - 1).all()
    assert (found.rows[:, num - 1 :] == -1).all()
    assert (found.cosines[:, num - 1 :] == 0).all()
