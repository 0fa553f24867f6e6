"""What every objective keeps, whichever it is: a new line in OBJECTIVES is tested here by itself."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import OBJECTIVES, build_objective

BATCH, DIM = 6, 8

every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return WithFeatures(build_objective(name, dim=DIM))


class WithFeatures(nn.Module):
    """Give an objective that looks at features some that agree with the teacher."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self._takes_features = "features" in inspect.signature(objective.forward).parameters

    def forward(self, *, student: Tensor, teacher: Tensor) -> Any:
        words = {"features": 2 * teacher} if self._takes_features else {}
        return self.objective(student=student, teacher=teacher, **words)


def embeddings(seed: int, rows: int = BATCH) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def assert_trains(objective: nn.Module, *, student: Tensor, teacher: Tensor) -> None:
    student = student.clone().requires_grad_()
    loss = objective(student=student, teacher=teacher)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_objective
def test_objective__gives_a_finite_scalar_and_a_gradient_to_the_student(name: str) -> None:
    student = embeddings(1).requires_grad_()
    loss = build(name)(student=student, teacher=embeddings(2))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


@every_objective
def test_objective__gives_no_gradient_to_the_teacher(name: str) -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2).requires_grad_()
    build(name)(student=student, teacher=teacher).backward()
    assert teacher.grad is None


@every_objective
def test_objective__leaves_its_arguments_as_they_were(name: str) -> None:
    student, teacher = embeddings(1), embeddings(2)
    build(name)(student=student, teacher=teacher)
    assert torch.equal(student, embeddings(1))
    assert torch.equal(teacher, embeddings(2))


@every_objective
def test_objective__takes_a_batch_of_two(name: str) -> None:
    assert_trains(build(name), student=embeddings(1, rows=2), teacher=embeddings(2, rows=2))


@every_objective
@pytest.mark.parametrize("repeats", [2, BATCH])
def test_objective__stays_finite_where_rows_coincide(name: str, repeats: int) -> None:
    student, teacher = embeddings(1), embeddings(2)
    student[:repeats], teacher[:repeats] = student[0].clone(), teacher[0].clone()
    assert_trains(build(name), student=student, teacher=embeddings(2))
    assert_trains(build(name), student=embeddings(1), teacher=teacher)
    assert_trains(build(name), student=student, teacher=teacher)


@every_objective
def test_objective__stays_finite_for_a_teacher_row_of_zeros(name: str) -> None:
    teacher = embeddings(2)
    teacher[0] = 0
    assert_trains(build(name), student=embeddings(1), teacher=teacher)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_objective__takes_half_precision_and_sums_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = embeddings(1).to(dtype), embeddings(2).to(dtype)
    assert_trains(build(name), student=student, teacher=teacher)
    loss = build(name)(student=student, teacher=teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, build(name)(student=student.float(), teacher=teacher.float()))


@every_objective
def test_objective__prefers_a_student_that_agrees(name: str) -> None:
    teacher = embeddings(2)
    agreeing, other = (build(name)(student=student, teacher=teacher) for student in (teacher, embeddings(1)))
    assert agreeing < other


@every_objective
def test_objective__goes_on_from_its_state(name: str) -> None:
    used, restored = build(name), build(name)
    used(student=embeddings(1), teacher=embeddings(2))
    restored.load_state_dict(used.state_dict())
    batch = {"student": embeddings(3), "teacher": embeddings(4)}
    assert torch.equal(used(**batch), restored(**batch))


def test_build_objective__names_the_known_where_a_name_is_unknown() -> None:
    with pytest.raises(ProtoRKDError, match=r"--loss must .* got 'simrge'. Did you mean 'simreg'\?") as raised:
        build_objective("simrge", dim=DIM)
    assert all(name in str(raised.value) for name in OBJECTIVES)


def test_build_objective__names_the_known_where_an_option_is_unknown() -> None:
    with pytest.raises(ProtoRKDError, match=r"objective rkd must be known; got 'angle_wieght'") as raised:
        build_objective("rkd", dim=DIM, angle_wieght=1.0)
    assert "Known: angle_block, angle_weight, distance_weight." in str(raised.value)


def test_build_objective__refuses_options_where_there_are_none() -> None:
    with pytest.raises(ProtoRKDError, match=r"got 'temperature'\. Known: none\."):
        build_objective("simreg", dim=DIM, temperature=1.0)


def test_build_objective__passes_dim_to_those_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(nn.Module):
        def __init__(self, *, dim: int, gain: float = 1.0) -> None:
            super().__init__()
            self.made_with = (dim, gain)

    monkeypatch.setitem(OBJECTIVES, "wide", Wide)
    assert build_objective("wide", dim=3, gain=2.0).made_with == (3, 2.0)
