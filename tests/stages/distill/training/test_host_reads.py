"""A step does not wait for the device: nothing reads a number back, or asks how large a result will be.

Copies to the device and from it are seen on tensors without content, which stand for those of a GPU.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from host_reads import Reads, waits_refused, without_autocast
from workbench import SMALL, Cli, Pairs, at_step, power_cut

from stages.components.compute.device import send
from stages.distill.data import training_data
from stages.distill.data.targets import Targets
from stages.distill.data.training_data import TrainingData
from stages.distill.objectives import OBJECTIVES, WeightedObjectives, _options_of, build_objective
from stages.distill.reporting.metric_log import Metrics
from stages.distill.training import loop as training
from stages.distill.training.loop import Training
from stages.distill.training.loss_watch import LossWatch
from stages.distill.training.step import TrainingStep

NUM_ROWS, NUM_CAPTIONS, DIM = 12, 40, 8
NUM_LINES = 2  # of metrics, in 21 steps
WORDS = ("distill", *SMALL, "--precision", "fp32", "--student", "shufflenet_v2_x0_5", "--epochs", 7, "--seed", 5)

# Ways to ask for each objective, small ones: every option has another value than its default in one of them.
_QUEUE = {"queue_size": 64, "student_temperature": 0.1, "teacher_temperature": 0.1}
_ASSIGNED = {"num_prototypes": 16, "teacher_temperature": 0.1, "student_temperature": 0.2, "momentum": 0.5}
_MAPPED = {"num_prototypes": 16, "student_temperature": 0.1, "momentum": 0.5}
OPTIONS: dict[str, list[dict[str, object]]] = {
    "barlow-twins": [{"off_diagonal_weight": 0.01}],
    "compress-1q": [{"queue_size": size, "negatives": kind} for size, kind in ((64, "queue"), (64, "corpus"))]
    + [{"queue_size": 16, "negatives": "corpus", "temperature": 0.1}],
    "compress-2q": [{"queue_size": 64, "temperature": 0.1}],
    "cross-entropy": [{"temperature": 0.1}, {"num_labels": 3}],
    "dino": [_ASSIGNED],
    "infonce": [
        {"temperature": 0.1, "learn_temperature": False, "max_scale": 50.0},
        {"label_smoothing": 0.1},
        {"merge_duplicates": True},
        {"merge_duplicates": True, "label_smoothing": 0.1, "corpus_negatives": 16},
        {"corpus_negatives": 64},
        {"hard_negatives": 1.0, "learn_temperature": False, "spare_above": 0.5},
        {"merge_images": True, "spare_above": 0.5, "corpus_negatives": 16},
    ],
    "proto": [
        _MAPPED | {"target_temperature": 0.1, "learn_temperature": True},
        _MAPPED | {"targets": "caption", "back_translation": False},
    ],
    "proto-rkd": [
        _MAPPED | {"teacher_temperature": 0.1, "structure_weight": 1.0, "structure_prototypes": 5},
        _MAPPED | {"back_translation": True, "targets": "hard", "learn_temperature": True},
        _MAPPED | {"coarse_prototypes": 4, "own_caption": True, "corpus_landmarks": 16, "symmetric": 0.5},
    ],
    "protocpc": [_ASSIGNED],
    "rkd": [{"distance_weight": 1.0, "angle_weight": 2.0, "angle_block": 3}],
    "seed": [_QUEUE, _QUEUE | {"negatives": "corpus"}, _QUEUE | {"negatives": "corpus", "queue_size": 16}],
    "siglip": [
        {"temperature": 0.2, "bias": -5.0, "merge_duplicates": True},
        {"merge_images": True, "spare_above": 0.5},
    ],
    "structure": [{"temperature": 0.1, "levels": 2}],
    "unicl": [{"temperature": 0.1, "learn_temperature": False, "max_scale": 50.0}],
    "vicreg": [{"invariance_weight": 1.0, "variance_weight": 1.0, "covariance_weight": 2.0}],
}  # fmt: skip
_LARGE = {"compress-1q", "compress-2q", "dino", "protocpc", "seed"}  # by default
ASKED: list[tuple[str, dict[str, object]]] = [(name, {}) for name in OBJECTIVES if name not in _LARGE]
ASKED += [(name, options) for name, ways in OPTIONS.items() for options in ways]
every_way = pytest.mark.parametrize(
    ("name", "options"), ASKED, ids=[" ".join([name, *map(str, options.values())]) for name, options in ASKED]
)

# What a whole step does beside its objectives: each of it in one of these.
_ALL = ("--ema-decay", 0.9, "--max-grad-norm", 1, "--augmentation", "light")
STEPS = {
    "mean": (*_ALL, "--captions-per-image", "mean", "--targets-placement", "device", "--loss", "simreg=1"),
    "sample": (*_ALL, "--captions-per-image", "sample", "--target-smoothing", 0.5, "--targets-placement", "ram"),
    "micro-batches": (*_ALL, "--accumulate-steps", 2, "--targets-placement", "device", "--loss", "infonce=1"),
}
# All that the loop does on the device between a batch and its line of metrics.
IN_STEPS = (
    (TrainingData, "teacher"),
    (TrainingStep, "forward"),
    (TrainingStep, "loss"),
    (TrainingStep, "backward"),
    (Training, "_look_at"),
    (Training, "_update_weights"),
    (Training, "_seed_step"),
)
every_step = pytest.mark.parametrize("words", STEPS.values(), ids=STEPS)


def test_ways__try_every_option_of_every_objective() -> None:
    for name in OBJECTIVES:
        known = {option: parameter.default for option, parameter in _options_of(name).items()}
        tried = {key for options in OPTIONS.get(name, []) for key, value in options.items() if value != known.get(key)}
        assert tried - {"num_labels"} == set(known), name


def steps_of(name: str, options: dict[str, object], *, device: str, table_on: str) -> Callable[[], None]:
    """Build an objective, its corpus lying here or there; give a function that takes its next step."""
    torch.manual_seed(0)
    corpus = Targets(torch.randn(NUM_CAPTIONS, DIM).to(table_on), torch.device(device))
    objective = build_objective(
        name,
        dim=DIM,
        corpus=corpus,
        prototypes=lambda num: torch.randn(min(num, 16), DIM, device=device),
        **options,  # type: ignore[arg-type]
    )
    objectives = WeightedObjectives({name: (1.0, objective)}).to(device)
    student, teacher = torch.randn(2, NUM_ROWS, DIM, device=device).unbind()
    rows, labels = torch.arange(NUM_ROWS, device=device), torch.full((NUM_ROWS,), -1, device=device)
    beside = {"rows": rows, "labels": labels, "images": rows // 2, "features": torch.ones_like(teacher)}
    student.requires_grad_()

    def take() -> None:
        loss, _ = objectives(student=student, teacher=teacher, **beside)
        loss.backward()

    return take


@every_way
@pytest.mark.parametrize("table_on", ["meta", "cpu"])
def test_objectives__wait_for_no_device(
    name: str, options: dict[str, object], table_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_autocast(monkeypatch)
    take_step = steps_of(name, options, device="meta", table_on=table_on)
    reads = Reads("meta")
    with reads:
        for _ in range(3):
            take_step()
    assert not reads.found, reads.places


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training run on tensors without content as it does on a GPU, until it saves."""
    without_autocast(monkeypatch)
    monkeypatch.setattr(training_data, "prepares_batches", lambda _: True)
    # On a GPU images come from pinned memory, and numbers are looked at in a copy, a step later.
    monkeypatch.setattr(
        training, "prefetch_to_device", lambda batches, device: (_sent(batch, device) for batch in batches)
    )
    monkeypatch.setattr(LossWatch, "look", lambda *args, **words: None)
    monkeypatch.setattr(Targets, "is_zero", lambda targets: torch.zeros(targets.num_captions, dtype=torch.bool))


def _sent(batch: Any, device: torch.device) -> Any:
    return replace(batch, images=send(batch.images, device))


def count_in_steps(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((Training, "_sync_ranks"), *IN_STEPS):
        monkeypatch.setattr(owner, name, reads.counting(getattr(owner, name)))


@every_step
def test_step__waits_for_no_device(
    words: tuple[object, ...], encoded: Pairs, run_cli: Cli, on_meta: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = run_cli("pack", "--manifest", encoded.manifest, "--format", "raw")["fingerprint"]
    reads = Reads("meta")
    count_in_steps(reads, monkeypatch)
    with at_step(1, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*WORDS, "--student", "resnet18", "--device", "meta", "--packed", pack, *words)
    assert not reads.found, reads.places


def test_step__reads_numbers_for_lines_of_metrics_alone(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU it looks at a copy, a step later; on a CPU there is nothing to wait for, and it looks at once.
    monkeypatch.setattr(LossWatch, "look", lambda *args, **words: None)
    reads = Reads()
    count_in_steps(reads, monkeypatch)
    monkeypatch.setattr(Metrics, "write_when_due", reads.counting(Metrics.write_when_due))
    losses = ("--loss", "infonce=1", "--loss", "simreg=1", "--target-smoothing", 0.5)
    run_cli(*WORDS, *losses, "--log-every-steps", 10, "--max-grad-norm", 1, "--ema-decay", 0.9)
    num_means = len(("loss", "infonce", "simreg", "grad_norm"))
    assert reads.found == {"_local_scalar_dense": NUM_LINES * num_means}


def test_refusal__comes_through_the_warning_of_its_own_mode_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"
    modes = []

    def set_mode(mode: str) -> None:  # as torch/csrc/cuda/Module.cpp does it
        modes.append(mode)
        warnings.warn(said, UserWarning, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(UserWarning, match="another"), waits_refused():
        warnings.warn("another", UserWarning, stacklevel=1)
    assert modes == ["error", "default"]


@pytest.mark.gpu
@every_way
@pytest.mark.parametrize("table_on", ["cuda", "cpu"])
def test_objectives__do_not_wait_for_a_gpu(name: str, options: dict[str, object], table_on: str) -> None:
    take_step = steps_of(name, options, device="cuda", table_on=table_on)
    for number in range(6):  # at first, memory is still to be found
        with waits_refused() if number > 2 else nullcontext():
            take_step()


@pytest.mark.gpu
@every_step
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_step__does_not_wait_for_a_gpu(
    precision: str, words: tuple[object, ...], encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = run_cli("pack", "--manifest", encoded.manifest, "--format", "raw")["fingerprint"]

    steps: list[int] = []
    update = Training._update_weights

    def strict(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **words: Any) -> Any:
            with waits_refused() if len(steps) > 3 else nullcontext():
                return function(*args, **words)

        return call

    def count(training: Training) -> None:
        steps.append(training._progress.step)
        update(training)

    monkeypatch.setattr(Training, "_update_weights", count)
    for owner, name in IN_STEPS:
        monkeypatch.setattr(owner, name, strict(getattr(owner, name)))
    run_cli(*WORDS, "--device", "cuda", "--precision", precision, "--packed", pack, *words, "--log-every-steps", 10)
