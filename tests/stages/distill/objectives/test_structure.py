"""STRUCTURE: the relations between images in embeddings against those in features, over steps of a walk."""

import math

import pytest
import torch
from objective_samples import gradient, unit
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective


def rows(seed: int, dim: int = 5, num: int = 6) -> Tensor:
    return 3 * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_relations(embeddings: Tensor, temperature: float) -> Tensor:
    units = unit(embeddings)
    centred = units - sum(units) / len(units)
    scores = torch.stack([torch.stack([(one @ other) / temperature for other in centred]) for one in centred])
    return torch.stack([row.exp() / row.exp().sum() for row in scores])


def slow_structure(student: Tensor, features: Tensor, *, temperature: float, levels: int) -> Tensor:
    """The paper's formula, by loops: Jensen-Shannon divergences from the mean of both rows."""
    total = torch.zeros((), dtype=torch.float64)
    for level in range(1, levels + 1):
        found, wanted = (
            torch.linalg.matrix_power(slow_relations(one, temperature), level) for one in (student, features)
        )
        for q, p in zip(found, wanted, strict=True):
            mean = (p + q) / 2
            divergence = ((p * (p / mean).log()).sum() + (q * (q / mean).log()).sum()) / 2
            total = total + divergence / level / len(student) / levels
    return total


@pytest.mark.parametrize("levels", [1, 3])
def test_structure__has_value_and_gradient_of_the_formula(levels: int) -> None:
    student, features = rows(1).requires_grad_(), rows(2, dim=9)
    objective = build_objective("structure", dim=5, temperature=0.4, levels=levels)
    loss = objective(student=student, teacher=rows(3), features=features)
    expected = slow_structure(student, features, temperature=0.4, levels=levels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student))


def test_structure__is_0_where_relations_are_kept_and_log_2_at_most() -> None:
    objective = build_objective("structure", dim=5, temperature=0.01)
    features, turn = rows(1), torch.linalg.qr(rows(2, num=5)).Q
    assert objective(student=features @ turn, teacher=features, features=features) == pytest.approx(0, abs=1e-9)
    student, features = torch.eye(6)[[0, 0, 1, 1, 2, 2]], torch.eye(6)[[0, 1, 0, 1, 2, 2]]
    assert 0.2 < objective(student=student, teacher=student, features=features) < math.log(2)


def test_structure__stays_finite_where_shares_underflow() -> None:
    student = torch.eye(4)[[0, 0, 1, 1]].requires_grad_()
    objective = build_objective("structure", dim=4, temperature=1e-3, levels=2)
    loss = objective(student=student, teacher=student, features=torch.eye(4)[[0, 1, 0, 1]])
    assert loss.isfinite()
    assert gradient(loss, student).isfinite().all()


@pytest.mark.parametrize(("option", "value"), [("temperature", 0.0), ("levels", 0)])
def test_structure__refuses_options_without_meaning(option: str, value: float) -> None:
    with pytest.raises(ProtoRKDError, match=rf"{option} of structure must .*; got {value}"):
        build_objective("structure", dim=5, **{option: value})


def test_structure__refuses_features_of_another_batch() -> None:
    with pytest.raises(ProtoRKDError, match="equally many rows"):
        build_objective("structure", dim=5)(student=rows(1), teacher=rows(2), features=rows(3, num=4))
