"""Regression onto unit vectors."""

import math

import pytest
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

every_distance = pytest.mark.parametrize("name", ["simreg", "simreg-l1", "simreg-smooth-l1"])

# Opposite and orthogonal unit vectors in two dimensions, by hand.
STUDENT = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
TEACHER = torch.tensor([[-1.0, 0.0], [7.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "value"),
    [("simreg", (4 + 0 + 1 + 1) / 4), ("simreg-l1", (2 + 0 + 1 + 1) / 4), ("simreg-smooth-l1", (1.5 + 0 + 1) / 4)],
)
def test_simreg__has_the_value_found_by_hand(name: str, value: float) -> None:
    loss = build_objective(name, dim=2)(student=STUDENT, teacher=TEACHER)
    assert loss.item() == pytest.approx(value)


def test_simreg__is_two_over_dim_times_one_minus_cosine() -> None:
    student, teacher = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = 2 / 16 * (1 - torch.cosine_similarity(student, teacher)).mean()
    torch.testing.assert_close(build_objective("simreg", dim=16)(student=student, teacher=teacher), expected)


@every_distance
def test_simreg__ignores_the_length_of_each_row(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 16, generator=generator)
    lengths = torch.rand(5, 1, generator=generator) + 0.1
    objective = build_objective(name, dim=16)
    scaled = objective(student=student * lengths, teacher=teacher / lengths)
    torch.testing.assert_close(scaled, objective(student=student, teacher=teacher))


@every_distance
def test_simreg__is_zero_on_agreement(name: str) -> None:
    assert build_objective(name, dim=2)(student=5 * TEACHER, teacher=TEACHER).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "bound"), [("simreg", 4 / 16), ("simreg-l1", 2 / math.sqrt(16)), ("simreg-smooth-l1", 2 / 16)]
)
def test_simreg__keeps_its_stated_range(name: str, bound: float) -> None:
    opposite = torch.cat([torch.ones(1, 16), torch.eye(16)])
    loss = build_objective(name, dim=16)(student=-opposite[:1], teacher=opposite[:1])
    assert 0 < loss.item() <= bound + 1e-6
    assert build_objective(name, dim=16)(student=-opposite, teacher=opposite).item() <= bound + 1e-6


@every_distance
@pytest.mark.parametrize("teacher", [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2)])
def test_simreg__refuses_other_shapes(name: str, teacher: Tensor) -> None:
    with pytest.raises(ProtoRKDError, match=r"Student and teacher must .*got \(2, 2\) and"):
        build_objective(name, dim=2)(student=STUDENT, teacher=teacher)
