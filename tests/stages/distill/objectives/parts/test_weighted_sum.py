"""The weighted sum of objectives."""

import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import WeightedObjectives, build_objective

STUDENT, TEACHER = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = {"simreg": 2.0, "rkd": 0.25}


def build_weighted() -> WeightedObjectives:
    return WeightedObjectives({name: (weight, build_objective(name, dim=8)) for name, weight in WEIGHTS.items()})


def test_weighted_objectives__sum_their_weighted_terms() -> None:
    total, terms = build_weighted()(student=STUDENT, teacher=TEACHER)
    assert list(terms) == ["simreg", "rkd"]
    for name, term in terms.items():
        torch.testing.assert_close(term, build_objective(name, dim=8)(student=STUDENT, teacher=TEACHER))
    torch.testing.assert_close(total, 2.0 * terms["simreg"] + 0.25 * terms["rkd"])


def test_weighted_objectives__train_on_the_total_and_detach_the_terms() -> None:
    student = STUDENT.clone().requires_grad_()
    total, terms = build_weighted()(student=student, teacher=TEACHER)
    expected = sum(
        weight * torch.autograd.grad(build_objective(name, dim=8)(student=student, teacher=TEACHER), student)[0]
        for name, weight in WEIGHTS.items()
    )
    torch.testing.assert_close(torch.autograd.grad(total, student)[0], expected)
    assert not any(term.requires_grad for term in terms.values())


def test_weighted_objectives__hold_the_state_of_each_objective_under_its_name() -> None:
    weighted = WeightedObjectives({"linear": (1.0, torch.nn.Linear(2, 2))})
    assert list(weighted.state_dict()) == ["objectives.linear.weight", "objectives.linear.bias"]


def test_weighted_objectives__refuse_to_be_none() -> None:
    with pytest.raises(ProtoRKDError, match="--loss must be given at least once"):
        WeightedObjectives({})
