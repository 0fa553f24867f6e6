"""A step does not wait for the device: nothing reads a number back, or asks how large a result will be."""

from typing import Any

import pytest
import torch
from host_reads import Reads
from workbench import SMALL, Cli, Pairs

from stages.distill.finite import LossWatch
from stages.distill.metrics import Metrics
from stages.distill.objectives import OBJECTIVES, WeightedObjectives, build_objective
from stages.distill.training import Training

NUM_STEPS, NUM_ROWS = 20, 12
NUM_LINES = 2  # of metrics, in 21 steps
# Options that make an objective small.
_SIZES = dict.fromkeys(("compress-1q", "compress-2q", "seed"), "queue_size")
_SIZES |= dict.fromkeys(("dino", "protocpc"), "num_prototypes")
WORDS = ("distill", *SMALL, "--precision", "fp32", "--student", "shufflenet_v2_x0_5", "--epochs", 7, "--seed", 5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives__read_no_number(name: str) -> None:
    torch.manual_seed(0)
    objective = build_objective(name, dim=8, **({_SIZES[name]: 64} if name in _SIZES else {}))
    objectives = WeightedObjectives({name: (1.0, objective)})
    labels = torch.full((NUM_ROWS,), -1)
    reads = Reads()
    for step in range(NUM_STEPS):
        student, teacher = torch.randn(2, NUM_ROWS, 8).unbind()
        with reads:
            rows = step * NUM_ROWS + torch.arange(NUM_ROWS)
            loss, _ = objectives(student=student.requires_grad_(), teacher=teacher, rows=rows, labels=labels)
            loss.backward()
    assert not reads.found


def test_step__reads_numbers_for_lines_of_metrics_alone(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU it looks at a copy, a step later; on a CPU there is nothing to wait for, and it looks at once.
    monkeypatch.setattr(LossWatch, "look", lambda *args, **words: None)
    reads = Reads()
    for subject, name in (
        (Training, "_confer"), (Training, "_learn"), (Training, "_finish_step"), (Metrics, "write_when_due")
    ):  # fmt: skip
        monkeypatch.setattr(subject, name, reads.counting(getattr(subject, name)))
    losses = ("--loss", "infonce=1", "--loss", "simreg=1", "--target-smoothing", 0.5)
    run_cli(*WORDS, *losses, "--log-every-steps", 10, "--max-grad-norm", 1, "--ema-decay", 0.9)
    num_means = len(("loss", "infonce", "simreg", "grad_norm"))
    assert reads.found == {"_local_scalar_dense": NUM_LINES * num_means}


@pytest.mark.gpu
@pytest.mark.parametrize("name", OBJECTIVES)
def test_step__does_not_wait_for_a_gpu(
    name: str, encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Training._learn

    def strict_learn(training: Training, *args: Any, **words: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if training._progress.step > 3 else "default")
        try:
            learn(training, *args, **words)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Training, "_learn", strict_learn)
    run_cli(*WORDS, "--device", "cuda", "--loss", f"{name}=1", "--log-every-steps", 10)
