"""ProtoCPC: assignments weighed against a running prior over prototypes."""

import math
from typing import Any

import pytest
import torch
from objective_samples import unit
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

DIM, PROTOTYPES = 5, 9


def embeddings(seed: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def build(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_objective("protocpc", **{"dim": DIM, "num_prototypes": PROTOTYPES, **options})


def assignments(teacher: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    return torch.softmax(unit(teacher) @ unit(prototypes.detach()).T / temperature, dim=1)


def slow_protocpc(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    prior: Tensor,
    *,
    teacher_temperature: float = 0.04,
    student_temperature: float = 0.1,
) -> Tensor:
    """Return the loss as its docstring states it, pair by pair and prototype by prototype in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for s, p in zip(unit(student), assignments(teacher, prototypes, teacher_temperature), strict=True):
        scores = [prototype @ s / student_temperature for prototype in unit(prototypes)]
        positive = sum(p_k * score for p_k, score in zip(p, scores, strict=True))
        total = (
            total - positive + torch.log(sum(pi * torch.exp(score) for pi, score in zip(prior, scores, strict=True)))
        )
    return total / len(student)


def test_protocpc__has_value_and_gradients_of_the_direct_form_while_the_prior_moves() -> None:
    settings = {"teacher_temperature": 0.2, "student_temperature": 0.3}
    objective = build(momentum=0.7, **settings)
    prior = torch.ones(PROTOTYPES, dtype=torch.float64)
    for step, rows in enumerate((4, 2, 7)):
        student, teacher = embeddings(step, rows).requires_grad_(), embeddings(step + 10, rows)
        inputs = (student, objective.prototypes)
        loss = objective(student=student, teacher=teacher)
        expected = slow_protocpc(student, teacher, objective.prototypes, prior, **settings)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=1e-3, atol=1e-6
        )
        mean = assignments(teacher, objective.prototypes, 0.2).mean(dim=0)
        prior = 0.7 * prior + 0.3 * PROTOTYPES * mean
        torch.testing.assert_close(objective.prior.double(), prior, rtol=1e-4, atol=1e-6)
        assert objective.prior.mean().item() == pytest.approx(1, abs=1e-5)


def test_protocpc__has_65536_prototypes_and_temperatures_of_0_04_and_0_1_unless_told() -> None:
    objective = build_objective("protocpc", dim=2)
    assert objective.prototypes.shape == (65536, 2)
    assert objective.prior.shape == (65536,)
    assert (objective.teacher_temperature, objective.student_temperature, objective.momentum) == (0.04, 0.1, 0.9)


def test_protocpc__is_dino_without_a_centre_while_the_prior_is_uniform() -> None:
    batch = {"student": embeddings(1), "teacher": embeddings(2)}
    protocpc, dino = build(momentum=1.0), build_objective("dino", dim=DIM, num_prototypes=PROTOTYPES, momentum=1.0)
    dino.prototypes = protocpc.prototypes
    for _ in range(2):
        torch.testing.assert_close(protocpc(**batch), dino(**batch))


def test_protocpc__is_least_where_scores_are_the_logarithm_of_assignment_over_prior() -> None:
    objective = build(student_temperature=0.1)
    objective.prior.copy_(torch.linspace(0.2, 1.8, PROTOTYPES))
    teacher = embeddings(2, 1)
    log_ratio = (assignments(teacher, objective.prototypes, 0.04) / objective.prior).log()
    scores = log_ratio.clone().requires_grad_()
    p = assignments(teacher, objective.prototypes, 0.04)
    value = torch.logsumexp(scores + objective.prior.log(), dim=1) - (p * scores).sum(dim=1)
    assert torch.autograd.grad(value, scores)[0].abs().max() < 1e-6
    assert objective(student=embeddings(1, 1), teacher=teacher) >= -(p * log_ratio).sum()


def test_protocpc__stays_finite_where_the_prior_has_faded() -> None:
    objective = build()
    objective.prior[0] = 0.0
    student = embeddings(1).requires_grad_()
    loss = objective(student=student, teacher=embeddings(2))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_protocpc__keeps_its_prior_outside_training() -> None:
    objective = build().eval()
    objective(student=embeddings(1), teacher=embeddings(2))
    assert torch.equal(objective.prior, torch.ones(PROTOTYPES))


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_temperature": 0.0},
        {"student_temperature": math.inf},
        {"num_prototypes": 1},
        {"momentum": -0.1},
    ],
)
def test_protocpc__refuses_options_without_meaning(options: dict[str, float]) -> None:
    with pytest.raises(ProtoRKDError, match=rf"{next(iter(options))} of protocpc must be .*; got"):
        build(**options)
