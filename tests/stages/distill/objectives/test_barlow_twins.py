"""Barlow Twins: the cross-correlation over the batch, and columns that have none."""

import math

import pytest
import torch
from objective_samples import gradient
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

DIM = 5


def embeddings(seed: int, rows: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_barlow_twins(student: Tensor, teacher: Tensor, *, off_diagonal_weight: float) -> Tensor:
    """Equations 1 and 2 of arXiv:2103.03230, column by column; 1e-5 under the root as in batch normalisation."""
    columns = []
    for rows in (student.double(), teacher.double()):
        spread = math.sqrt(DIM) * rows / rows.norm(dim=1, keepdim=True)
        means = [sum(spread[:, j]) / len(spread) for j in range(DIM)]
        variances = [sum((spread[:, j] - means[j]) ** 2) / len(spread) for j in range(DIM)]
        columns.append([(spread[:, j] - means[j]) / torch.sqrt(variances[j] + 1e-5) for j in range(DIM)])
    total = torch.zeros((), dtype=torch.float64)
    for i, of_student in enumerate(columns[0]):
        for j, of_teacher in enumerate(columns[1]):
            correlation = sum(of_student * of_teacher) / len(student)
            total = total + ((1 - correlation) ** 2 if i == j else off_diagonal_weight * correlation**2)
    return total


@pytest.mark.parametrize("rows", [2, 4, 9])
@pytest.mark.parametrize("weight", [0.0, 0.0051, 0.5])
def test_barlow_twins__has_value_and_gradient_of_the_formula(weight: float, rows: int) -> None:
    student, teacher = embeddings(1, rows).requires_grad_(), embeddings(2, rows)
    loss = build_objective("barlow-twins", dim=DIM, off_diagonal_weight=weight)(student=student, teacher=teacher)
    expected = slow_barlow_twins(student, teacher, off_diagonal_weight=weight)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), rtol=1e-8, atol=1e-12)


def test_barlow_twins__weighs_what_is_off_the_diagonal_by_0_0051_unless_told() -> None:
    student, teacher = embeddings(1, dtype=torch.float32), embeddings(2, dtype=torch.float32)
    loss = build_objective("barlow-twins", dim=DIM)(student=student, teacher=teacher)
    expected = slow_barlow_twins(student, teacher, off_diagonal_weight=0.0051)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)


def test_barlow_twins__is_zero_where_the_teachers_dimensions_do_not_correlate() -> None:
    axes = torch.eye(DIM, dtype=torch.float64)
    teacher = torch.cat([axes, -axes])
    loss = build_objective("barlow-twins", dim=DIM)(student=7 * teacher, teacher=teacher)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_barlow_twins__is_the_width_where_nothing_varies() -> None:
    student = embeddings(1)[[0, 0, 0, 0]].requires_grad_()
    for teacher in (embeddings(2), embeddings(2)[[1, 1, 1, 1]]):
        loss = build_objective("barlow-twins", dim=DIM)(student=student, teacher=teacher)
        assert loss.item() == pytest.approx(DIM)
        assert gradient(loss, student).isfinite().all()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_barlow_twins__finds_no_correlation_with_a_constant_column(side: str) -> None:
    batch = {"student": embeddings(1), "teacher": embeddings(2)}
    batch[side][:, 0] = 0
    batch["student"].requires_grad_()
    loss = build_objective("barlow-twins", dim=DIM)(**batch)
    torch.testing.assert_close(loss, slow_barlow_twins(**batch, off_diagonal_weight=0.0051))
    assert loss >= 1
    assert gradient(loss, batch["student"]).isfinite().all()


def test_barlow_twins__has_no_gradient_for_a_batch_of_one() -> None:
    student = embeddings(1, rows=1).requires_grad_()
    loss = build_objective("barlow-twins", dim=DIM)(student=student, teacher=embeddings(2, rows=1))
    assert loss.item() == DIM
    assert gradient(loss, student).abs().max() == 0


def test_barlow_twins__ignores_the_lengths_of_embeddings() -> None:
    student, teacher, objective = embeddings(1), embeddings(2), build_objective("barlow-twins", dim=DIM)
    torch.testing.assert_close(
        objective(student=100 * student, teacher=teacher / 100), objective(student=student, teacher=teacher)
    )


def test_barlow_twins__computes_in_float32_under_autocast() -> None:
    batch = {"student": embeddings(1, dtype=torch.float32), "teacher": embeddings(2, dtype=torch.float32)}
    objective = build_objective("barlow-twins", dim=DIM)
    expected = objective(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(**batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_barlow_twins__refuses_a_weight_without_meaning(weight: float) -> None:
    with pytest.raises(ProtoRKDError, match=r"off_diagonal_weight of barlow-twins must be .*; got"):
        build_objective("barlow-twins", dim=DIM, off_diagonal_weight=weight)
