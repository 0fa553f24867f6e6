"""Rows near queries, against plain NumPy, in blocks of any size."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from stages.report.measures.scan import scan


def some_rows(num: int = 30, dim: int = 3) -> torch.Tensor:
    return normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.mark.parametrize("block", [1, 7, 30])
def test_scan__counts_and_finds_what_numpy_does(block: int) -> None:
    rows, own = some_rows(), torch.tensor([3, 29, 0])
    weights = torch.arange(30).double()
    found = scan(rows[own], torch.split(rows, block), levels=(0.0, 0.8), weights=weights, own=own)
    scores = (rows[own] @ rows.T).numpy()
    scores[np.arange(3), own] = -2
    expected = [((scores >= level) * weights.numpy()).sum(axis=1) for level in (0.0, 0.8)]
    np.testing.assert_array_equal(found.counts, np.stack(expected, axis=1))
    np.testing.assert_array_equal(found.rows, scores.argmax(axis=1))
    np.testing.assert_allclose(found.cosines, scores.max(axis=1), atol=1e-6)


def test_scan__counts_every_row_where_none_is_the_query() -> None:
    rows = some_rows()
    found = scan(rows[:2], torch.split(rows, 8), levels=(-1.0, 0.999))
    assert found.counts.tolist() == [[30, 1], [30, 1]]
    assert found.rows.tolist() == [0, 1]


def test_scan__finds_nothing_among_no_other_rows() -> None:
    rows = some_rows(1)
    found = scan(rows, [rows], levels=(-1.0,), own=torch.tensor([0]))
    assert (found.counts.tolist(), found.rows.tolist(), found.cosines.tolist()) == ([[0]], [-1], [-2])
