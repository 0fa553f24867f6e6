"""The running mean of the student's weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from workbench import on_ranks

from stages.components.student.student import Student
from stages.distill.training.ema import EMA


def make_student(seed: int = 0) -> Student:
    torch.manual_seed(seed)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    student = Student(backbone=backbone, head=nn.Linear(4, 5), feature_dim=4, embedding_dim=5)
    return student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def move(student: Student, step: int) -> None:
    torch.manual_seed(step)
    student.train()(torch.randn(4, 3, 6, 6))  # moves the running statistics
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_ema__follows_its_formula_with_warm_up(decay: float) -> None:
    student = make_student()
    ema = EMA(student, decay=decay)
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    for step in range(6):
        move(student, step)
        ema.update(student)
        kept = min(decay, (1 + step) / (10 + step))
        for name, value in student.state_dict().items():
            counts = not value.is_floating_point()
            expected[name] = value.clone() if counts else kept * expected[name] + (1 - kept) * value
    assert any(name.endswith("running_var") for name in expected)
    torch.testing.assert_close(dict(ema.shadow.state_dict()), expected)
    assert int(ema.shadow.state_dict()["backbone.1.num_batches_tracked"]) == 6


def floats_of(ema: EMA) -> dict[str, Tensor]:
    state = ema.shadow.state_dict()
    return {name: value.clone() for name, value in state.items() if value.is_floating_point()}


def test_ema__moves_with_a_step_that_was_taken_and_stays_with_one_that_was_not() -> None:
    student = make_student()
    ema, plain = EMA(student, decay=0.9), EMA(student, decay=0.9)
    move(student, 0)
    plain.update(student)
    ema.update(student, taken=torch.tensor(True))
    moved = floats_of(ema)
    torch.testing.assert_close(moved, floats_of(plain), rtol=0, atol=0)
    for number in (torch.nan, torch.inf):
        for tensor in (*student.parameters(), *(buffer for buffer in student.buffers() if buffer.ndim)):
            tensor.data.fill_(number)
        ema.update(student, taken=torch.tensor(False))
        torch.testing.assert_close(floats_of(ema), moved, rtol=0, atol=0)


def test_ema__leaves_the_student_alone() -> None:
    student = make_student()
    ema = EMA(student, decay=0.9)
    move(student, 0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    ema.update(student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(part.training for part in ema.shadow.modules())
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_ema__keeps_the_memory_format() -> None:
    student = make_student()
    ema = EMA(student, decay=0.9)
    move(student, 0)
    ema.update(student)
    other = EMA(make_student(1), decay=0.9)
    other.load_state_dict({name: value.contiguous() for name, value in ema.state_dict().items()})
    for shadow in (ema.shadow, other.shadow):
        strides = [parameter.stride() for parameter in shadow.parameters()]
        assert strides == [parameter.stride() for parameter in student.parameters()]


def test_ema__goes_on_from_its_state_dict() -> None:
    student, again = make_student(), make_student(1)
    ema, resumed = EMA(student, decay=0.9), EMA(again, decay=0.9)
    for step in range(3):
        move(student, step)
        ema.update(student)
    resumed.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    move(student, 3)
    ema.update(student)
    resumed.update(student)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in ema.state_dict().items())


def test_ema__shares_the_group_that_batch_statistics_are_exchanged_by() -> None:
    def shared(ranks: Any) -> bool:
        layer = nn.SyncBatchNorm(4, process_group=ranks.group)
        ema = EMA(Student(backbone=layer, head=nn.Identity(), feature_dim=4, embedding_dim=4), decay=0.9)
        assert isinstance(ema.shadow.backbone, nn.SyncBatchNorm)
        return ema.shadow.backbone is not layer and ema.shadow.backbone.process_group is ranks.group

    assert on_ranks(2, shared) == [True, True]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_ema__refuses_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be from 0 to below 1"):
        EMA(make_student(), decay=decay)
