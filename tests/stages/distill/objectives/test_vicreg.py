"""VICReg: the paper's three terms, on unit vectors scaled by the root of their width."""

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


def slow_vicreg(student: Tensor, teacher: Tensor, *, weights: tuple[float, float, float] = (25, 25, 1)) -> Tensor:
    """Equations 1 to 5 of arXiv:2105.04906 for the student, element by element; the distance averaged over elements."""
    s, t = (math.sqrt(DIM) * rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (student, teacher))
    n = len(s)
    invariance = sum((s[i, j] - t[i, j]) ** 2 for i in range(n) for j in range(DIM)) / (n * DIM)
    means = [sum(s[:, j]) / n for j in range(DIM)]

    def covariance(j: int, k: int) -> Tensor:
        return sum((s[i, j] - means[j]) * (s[i, k] - means[k]) for i in range(n)) / (n - 1)

    variance = sum(torch.relu(1 - torch.sqrt(covariance(j, j) + 1e-4)) for j in range(DIM)) / DIM
    covariances = sum(covariance(j, k) ** 2 for j in range(DIM) for k in range(DIM) if j != k) / DIM
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariances


@pytest.mark.parametrize("rows", [2, 4, 9])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_vicreg__has_value_and_gradient_of_the_formula(weights: tuple[float, float, float], rows: int) -> None:
    student, teacher = embeddings(1, rows).requires_grad_(), embeddings(2, rows)
    names = ("invariance_weight", "variance_weight", "covariance_weight")
    objective = build_objective("vicreg", dim=DIM, **dict(zip(names, weights, strict=True)))
    loss, expected = objective(student=student, teacher=teacher), slow_vicreg(student, teacher, weights=weights)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), rtol=1e-8, atol=1e-10)


def test_vicreg__weighs_by_25_25_and_1_unless_told() -> None:
    student, teacher = embeddings(1, dtype=torch.float32), embeddings(2, dtype=torch.float32)
    loss = build_objective("vicreg", dim=DIM)(student=student, teacher=teacher)
    torch.testing.assert_close(loss.double(), slow_vicreg(student, teacher), rtol=1e-5, atol=1e-5)


def test_vicreg__is_zero_for_a_teacher_that_is_centred_and_uses_all_dimensions_alike() -> None:
    axes = torch.eye(DIM, dtype=torch.float64)
    teacher = torch.cat([axes, -axes])
    loss = build_objective("vicreg", dim=DIM)(student=7 * teacher, teacher=teacher)
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_vicreg__has_a_finite_gradient_where_nothing_varies() -> None:
    student = embeddings(1)[[0, 0, 0]].requires_grad_()
    objective = build_objective("vicreg", dim=DIM, invariance_weight=0.0)
    loss = objective(student=student, teacher=embeddings(2, rows=3))
    assert loss.item() == pytest.approx(25 * (1 - 0.01))
    assert gradient(loss, student).isfinite().all()


def test_vicreg__spreads_a_student_that_collapsed_but_for_a_little() -> None:
    collapsed = torch.ones(6, DIM, dtype=torch.float64) + 1e-3 * embeddings(1, rows=6)
    student = collapsed.clone().requires_grad_()
    loss = build_objective("vicreg", dim=DIM, invariance_weight=0.0)(student=student, teacher=embeddings(2, rows=6))
    moved = collapsed - 1e-3 * gradient(loss, student)
    assert moved.var(dim=0).sum() > collapsed.var(dim=0).sum()


def test_vicreg__is_regression_alone_for_a_batch_of_one() -> None:
    student, teacher = embeddings(1, rows=1).requires_grad_(), embeddings(2, rows=1)
    whole = gradient(build_objective("vicreg", dim=DIM)(student=student, teacher=teacher), student)
    options = {"variance_weight": 0.0, "covariance_weight": 0.0}
    regression = gradient(build_objective("vicreg", dim=DIM, **options)(student=student, teacher=teacher), student)
    assert regression.abs().max() > 0
    torch.testing.assert_close(whole, regression)


def test_vicreg__ignores_the_lengths_of_embeddings() -> None:
    student, teacher, objective = embeddings(1), embeddings(2), build_objective("vicreg", dim=DIM)
    torch.testing.assert_close(
        objective(student=100 * student, teacher=teacher / 100), objective(student=student, teacher=teacher)
    )


def test_vicreg__computes_in_float32_under_autocast() -> None:
    batch = {"student": embeddings(1, dtype=torch.float32), "teacher": embeddings(2, dtype=torch.float32)}
    objective = build_objective("vicreg", dim=DIM)
    expected = objective(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(**batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"variance_weight": -1.0},
        {"covariance_weight": math.nan},
        {"invariance_weight": 0.0, "variance_weight": 0.0, "covariance_weight": 0.0},
    ],
)
def test_vicreg__refuses_weights_without_meaning(options: dict[str, float]) -> None:
    with pytest.raises(ProtoRKDError, match=r"of vicreg must be .*; got"):
        build_objective("vicreg", dim=DIM, **options)
