"""A loss that is no number: what is said, what is kept, and where the same command goes on."""

import contextlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from workbench import DISTILL, Cli, Pairs, Trained

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_pairs
from pipeline.store.store import Store
from stages.distill import run
from stages.distill.data.batch_order import epoch_order
from stages.distill.objectives.infonce import InfoNCELoss
from stages.distill.training import loop as training
from stages.distill.training.ema import EMA
from stages.distill.training.loss_watch import LossWatch
from stages.distill.training.state import load_training_state

CPU = torch.device("cpu")


@contextmanager
def broken_from(step: int, *, loss: float = 1.0, gradient: float = 1.0, until: float = math.inf) -> Iterator[None]:
    """Multiply the loss of infonce from a step on, or its gradient alone, until another step."""
    calls: list[None] = []
    real = InfoNCELoss.forward

    def forward(objective: InfoNCELoss, *, student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
        calls.append(None)
        if step <= len(calls) < until:
            student.register_hook(lambda found: gradient * found)  # type: ignore[no-untyped-call]
            return loss * real(objective, student=student, teacher=teacher, rows=rows)
        return real(objective, student=student, teacher=teacher, rows=rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InfoNCELoss, "forward", forward)
        yield


@pytest.mark.parametrize(
    ("words", "last_good"),
    [
        (("--save-every-minutes", 1e-9), "that after step 4, from which the same command goes on"),
        ((), "that after step 3, from which the same command goes on"),
    ],
    ids=["saved in mid-epoch", "saved after an epoch"],
)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_loss_watch__names_step_and_rows_and_keeps_nothing_of_the_step(
    number: float, words: tuple[object, ...], last_good: str, encoded: Pairs, run_cli: Cli, undisturbed: Trained
) -> None:
    with broken_from(5, loss=number):
        message = run_cli.fails(*DISTILL, *words)
    rows = read_pairs(Store(run_cli.store).artifacts("encode-teacher")[0].path)["manifest_row"].to_numpy()
    shown = ", ".join(map(str, rows[epoch_order(24, seed=0, epoch=1)[8:16]]))
    assert f"The loss must stay finite; got {number} at step 5 (manifest rows {shown})" in message
    assert f"the last good state is {last_good}" in message
    assert "Try a lower --lr, more --warmup-steps or --precision fp32" in message
    [draft] = (run_cli.store / "distill").glob(".draft-*")
    state = load_training_state(draft / "state" / "latest.safetensors")
    assert state is not None
    assert f"after step {state.progress.step}," in message
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    assert run_cli(*DISTILL)["digest"] == undisturbed.outcome["digest"]


def test_loss_watch__says_that_nothing_is_saved_yet(encoded: Pairs, run_cli: Cli) -> None:
    with broken_from(3, loss=float("nan")):
        message = run_cli.fails(*DISTILL)
    assert "got nan at step 3" in message
    assert "the last good state is none yet: it would start anew" in message


@pytest.mark.parametrize("step", [3, 6], ids=["before a save", "at the end"])
def test_loss_watch__keeps_no_weights_of_a_gradient_that_is_not_finite(
    step: int, encoded: Pairs, run_cli: Cli, undisturbed: Trained
) -> None:
    with broken_from(step, gradient=float("nan")):
        message = run_cli.fails(*DISTILL)
    assert f"The gradient must stay finite; got nan at step {step}" in message
    assert run_cli(*DISTILL)["digest"] == undisturbed.outcome["digest"]


def test_loss_scaler__leaves_out_a_step_of_which_the_mean_of_weights_knows_nothing(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU trains in fp32 with the scaler of fp16, whose steps depend on nothing else.
    monkeypatch.setattr(run, "choose_precision", lambda *_: "fp16")
    monkeypatch.setattr(training, "autocast", lambda *_: contextlib.nullcontext)
    moves: list[bool] = []
    real = EMA.update

    def update(ema: EMA, student: nn.Module, **words: Any) -> None:
        before = [tensor.clone() for tensor in ema.shadow.parameters()]
        real(ema, student, **words)
        moves.append(not all(map(torch.equal, before, ema.shadow.parameters())))

    monkeypatch.setattr(EMA, "update", update)
    with broken_from(2, gradient=float("inf"), until=3):
        outcome = run_cli(*DISTILL, "--ema-decay", 0.9, "--log-every-steps", 3)
    assert moves == [True, False, True, True, True, True]
    first, second = map(json.loads, (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines())
    assert first["skipped_steps"] == 1
    assert first["grad_norm"] > 0
    assert "skipped_steps" not in second


def test_loss_watch__takes_what_is_finite() -> None:
    watch = LossWatch(CPU)
    for step in range(1, 4):
        watch.look(torch.tensor(1e38), step=step, rows=lambda: [1, 2], last_good="none")
    watch.settle("none")


def test_loss_watch__names_eight_rows_at_most() -> None:
    with pytest.raises(ProtoRKDError, match=r"\(manifest rows 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\)"):
        LossWatch(CPU).look(torch.tensor(-torch.inf), step=1, rows=lambda: list(range(2, 20)), last_good="none")


@pytest.mark.gpu
def test_loss_watch__on_a_gpu_judges_a_step_later_and_before_a_save() -> None:
    watch = LossWatch(torch.device("cuda"))
    nan = torch.tensor(torch.nan, device="cuda")
    watch.look(torch.tensor(1.0, device="cuda"), step=1, rows=lambda: [2], last_good="none")
    watch.look(nan, step=1, rows=lambda: [2], last_good="none")
    with pytest.raises(ProtoRKDError, match="got nan at step 1"):
        watch.look(nan, step=2, rows=lambda: [3], last_good="none")
    watch = LossWatch(torch.device("cuda"))
    watch.look(nan, step=1, rows=lambda: [2], last_good="none")
    with pytest.raises(ProtoRKDError, match="got nan at step 1"):
        watch.settle("none")
