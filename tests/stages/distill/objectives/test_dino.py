"""DINO: the paper's cross-entropy, a centre that follows the batches, prototypes that the student alone moves."""

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
    return build_objective("dino", **{"dim": DIM, "num_prototypes": PROTOTYPES, **options})


def slow_dino(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    centre: Tensor,
    *,
    teacher_temperature: float = 0.04,
    student_temperature: float = 0.1,
) -> Tensor:
    """H(P_t, P_s) of arXiv:2104.14294, algorithm 1, pair by pair in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(unit(student), unit(teacher), strict=True):
        wanted = torch.softmax((unit(prototypes).detach() @ t - centre) / teacher_temperature, dim=0)
        total = total - (wanted * torch.log(torch.softmax(unit(prototypes) @ s / student_temperature, dim=0))).sum()
    return total / len(student)


def test_dino__has_value_and_gradients_of_the_paper_while_the_centre_moves() -> None:
    settings = {"teacher_temperature": 0.2, "student_temperature": 0.3}
    objective = build(momentum=0.7, **settings)
    centre = torch.zeros(PROTOTYPES, dtype=torch.float64)
    for step, rows in enumerate((4, 2, 7)):
        student, teacher = embeddings(step, rows).requires_grad_(), embeddings(step + 10, rows)
        inputs = (student, objective.prototypes)
        loss = objective(student=student, teacher=teacher)
        expected = slow_dino(student, teacher, objective.prototypes, centre, **settings)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), rtol=1e-3, atol=1e-6
        )
        scores = unit(teacher) @ unit(objective.prototypes.detach()).T
        centre = 0.7 * centre + 0.3 * scores.mean(dim=0)
        torch.testing.assert_close(objective.centre.double(), centre, rtol=1e-5, atol=1e-6)


def test_dino__has_65536_prototypes_and_temperatures_of_0_04_and_0_1_unless_told() -> None:
    objective = build_objective("dino", dim=2)
    assert objective.prototypes.shape == (65536, 2)
    assert objective.centre.shape == (65536,)
    assert (objective.teacher_temperature, objective.student_temperature, objective.momentum) == (0.04, 0.1, 0.9)


def test_dino__ignores_the_lengths_of_prototypes() -> None:
    objective, batch = build(), {"student": embeddings(1), "teacher": embeddings(2)}
    expected = build()(**batch)
    with torch.no_grad():
        objective.prototypes.mul_(torch.linspace(0.1, 10, PROTOTYPES)[:, None])
    torch.testing.assert_close(objective(**batch), expected)


def test_dino__has_its_minimum_on_agreement_where_temperatures_are_equal() -> None:
    teacher = embeddings(2)
    student = (2 * teacher).requires_grad_()
    build(teacher_temperature=0.1, student_temperature=0.1)(student=student, teacher=teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def test_dino__takes_off_a_prototype_that_all_captions_share() -> None:
    teacher = nn.functional.pad(embeddings(1, 64)[:, 1:] * 0.1, (1, 0), value=1.0)
    objective = build(momentum=0.0)
    with torch.no_grad():
        objective.prototypes[0] = torch.eye(DIM)[0]
    student = embeddings(3, 64)
    first = torch.softmax(nn.functional.normalize(teacher, dim=1) @ unit(objective.prototypes).float().T / 0.04, dim=1)
    assert first.mean(dim=0)[0] > 0.9
    objective(student=student, teacher=teacher)
    scores = nn.functional.normalize(teacher, dim=1) @ unit(objective.prototypes).float().T
    assert torch.softmax((scores - objective.centre) / 0.04, dim=1).mean(dim=0).max() < 0.5


def test_dino__keeps_its_centre_outside_training() -> None:
    objective = build().eval()
    objective(student=embeddings(1), teacher=embeddings(2))
    assert objective.centre.abs().max() == 0


def test_dino__lets_a_later_call_move_the_centre_before_the_gradient() -> None:
    objective = build()
    student = embeddings(1).requires_grad_()
    loss = objective(student=student, teacher=embeddings(2))
    objective(student=student, teacher=embeddings(3))
    expected = torch.autograd.grad(build()(student=student, teacher=embeddings(2)), student)
    assert torch.equal(torch.autograd.grad(loss, student)[0], expected[0])


@pytest.mark.parametrize(
    "options",
    [
        {"teacher_temperature": 0.0},
        {"student_temperature": math.inf},
        {"num_prototypes": 1},
        {"momentum": 1.1},
        {"momentum": math.nan},
    ],
)
def test_dino__refuses_options_without_meaning(options: dict[str, float]) -> None:
    with pytest.raises(ProtoRKDError, match=rf"{next(iter(options))} of dino must be .*; got"):
        build(**options)
