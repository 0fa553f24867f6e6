"""A saved state puts training back to the bit; what is not whole counts for nothing."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from host_reads import waits_refused
from torch import nn

from stages.components.student.student import build_student
from stages.distill.training.ema import EMA
from stages.distill.training.state import TrainingProgress, TrainingState, load_training_state
from stages.distill.training.step import seed_step

PROGRESS = TrainingProgress(step=2, rejected={7: "missing file"}, checkpoints=["checkpoints/epoch_1.safetensors"])


def make(seed: int) -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    objectives = nn.Linear(4, 1)
    parameters = [*student.parameters(), *objectives.parameters()]
    return {"student": student, "objectives": objectives}, torch.optim.AdamW(parameters, lr=0.1)


def step(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, number: int) -> None:
    seed_step(torch.device("cpu"), seed=0, step=number, rank=0)
    loss = modules["objectives"](modules["student"](torch.arange(12.0).view(3, 4))).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    modules, optimizer = make(0)
    for number in range(2):
        step(modules, optimizer, number)
    TrainingState.of(PROGRESS, modules=modules, optimizer=optimizer).write(tmp_path / "state" / "latest.safetensors")
    return tmp_path / "state" / "latest.safetensors"


def test_state__goes_on_as_if_nothing_had_happened(saved: Path) -> None:
    undisturbed, optimizer = make(0)
    for number in range(5):
        step(undisturbed, optimizer, number)
    modules, other_optimizer = make(1)
    state = load_training_state(saved)
    assert state is not None
    state.restore(modules=modules, optimizer=other_optimizer)
    for number in range(2, 5):
        step(modules, other_optimizer, number)
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, undisturbed[name].state_dict()[key], rtol=0, atol=0)


def test_state__is_that_of_its_moment_whatever_is_trained_before_it_is_written(saved: Path, tmp_path: Path) -> None:
    modules, optimizer = make(0)
    progress = dataclasses.replace(PROGRESS, checkpoints=[*PROGRESS.checkpoints])
    for number in range(2):
        step(modules, optimizer, number)
    state = TrainingState.of(progress, modules=modules, optimizer=optimizer)
    step(modules, optimizer, 2)
    progress.step, progress.checkpoints[:] = 3, []
    state.write(tmp_path / "late")
    assert (tmp_path / "late").read_bytes() == saved.read_bytes()


@pytest.mark.gpu
def test_state__of_a_gpu_is_that_of_its_moment(tmp_path: Path) -> None:
    modules, optimizer = make(0)
    modules["student"].to("cuda").register_buffer("large", torch.zeros(1 << 26, device="cuda"))
    optimizer = torch.optim.AdamW([*modules["student"].parameters()], lr=0.1, fused=True)
    for number in range(3):
        modules["student"](torch.ones(3, 4, device="cuda")).square().sum().backward()
        optimizer.step()
        modules["student"].large.fill_(number)  # type: ignore[operator, union-attr]
        with waits_refused():
            state = TrainingState.of(PROGRESS, modules=modules, optimizer=optimizer)
            modules["student"].large.fill_(-1)  # type: ignore[operator, union-attr]
        state.write(tmp_path / "state")
        written = safetensors.torch.load_file(tmp_path / "state")
        assert (written["student/large"] == number).all()
        assert torch.equal(written["student/0.weight"], modules["student"].state_dict()["0.weight"].cpu())


def test_state__keeps_progress_with_pairs_as_numbers(saved: Path) -> None:
    state = load_training_state(saved)
    assert state is not None
    assert state.progress == PROGRESS


@pytest.mark.parametrize(
    ("step", "steps_per_epoch", "expected"), [(8, 3, 6), (9, 3, 7), (11, 3, 8), (11, 5, 13), (9, 4, 9), (12, 3, 9)]
)
def test_progress__keeps_its_place_where_an_epoch_has_other_steps(
    step: int, steps_per_epoch: int, expected: int
) -> None:
    progress = TrainingProgress(step=step, steps_per_epoch=4)
    progress.count_by(steps_per_epoch)
    assert (progress.step, progress.steps_per_epoch) == (expected, steps_per_epoch)


def test_state__is_one_safetensors_file(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    assert {"student/0.weight", "student/1.running_mean", "optimizer/0/exp_avg"} <= tensors.keys()
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_state__that_is_absent_is_none(tmp_path: Path) -> None:
    assert load_training_state(tmp_path / "latest.safetensors") is None


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_state__that_is_torn_is_none(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    assert load_training_state(saved) is None


def test_state__of_another_kind_is_none(tmp_path: Path) -> None:
    path = tmp_path / "latest.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    assert load_training_state(path) is None


def test_state__goes_on_with_a_student_and_a_mean_that_ask_for_versions_of_modules(tmp_path: Path) -> None:
    student = build_student("mnasnet0_5", embedding_dim=4, image_size=32)
    modules: dict[str, nn.Module] = {"student": student, "ema": EMA(student, decay=0.9)}
    optimizer = torch.optim.AdamW(student.parameters())
    TrainingState.of(PROGRESS, modules=modules, optimizer=optimizer).write(tmp_path / "state")
    bias = student.head[0].bias.detach()  # type: ignore[index]
    kept = bias.clone()
    bias += 1
    state = load_training_state(tmp_path / "state")
    assert state is not None
    state.restore(modules=modules, optimizer=optimizer)
    assert torch.equal(bias, kept)


def test_state__lays_moments_out_as_the_fused_optimizer_walks_its_parameters(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        student = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return student, torch.optim.AdamW(student.parameters(), lr=0.1, fused=True)

    def train(student: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        images = torch.arange(150.0).view(2, 3, 5, 5).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        (student(images) / 100).square().sum().backward()
        optimizer.step()

    undisturbed, optimizer = build()
    train(undisturbed, optimizer)
    TrainingState.of(PROGRESS, modules={"student": undisturbed}, optimizer=optimizer).write(tmp_path / "state")
    train(undisturbed, optimizer)
    resumed, optimizer = build()
    state = load_training_state(tmp_path / "state")
    assert state is not None
    state.restore(modules={"student": resumed}, optimizer=optimizer)
    train(resumed, optimizer)
    torch.testing.assert_close(resumed.weight, undisturbed.weight, rtol=0, atol=0)
