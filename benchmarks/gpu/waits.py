"""Find where the steps of a training wait for the GPU, by torch's own watch, in configurations that tests leave out."""

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.setup import ROOT, Setup
from benchmarks.gpu.timing import attempted
from benchmarks.gpu.training import train_small
from stages.distill.training.step import TrainingStep

_NUM_STEPS, _WARM_STEPS = 10, 5  # warm-up steps still allocate memory
_MESSAGE = "synchronizing CUDA operation"

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "light": {"augmentation": "light"},
    "jpeg": {"pack": "jpeg"},
    "accumulated": {"accumulate_steps": 2},
    "checkpointed": {"checkpoint_gradients": True},
    "fp16": {"precision": "fp16"},
    "targets in RAM": {"targets_placement": "ram"},
    "mean of captions": {"captions_per_image": "mean"},
    "drawn captions": {"captions_per_image": "sample"},
    "ema, smoothed": {"ema_decay": 0.99, "target_smoothing": 0.5, "smoothing_landmarks": 128},
    "infonce, corpus": {"loss_option": ("infonce.corpus-negatives=256",)},
    "seed, corpus": {"loss": ("seed=1",), "loss_option": ("seed.negatives=corpus", "seed.queue-size=256")},
    "proto-rkd, all": {
        "loss": ("infonce=1", "proto-rkd=1"),
        "loss_option": (
            "proto-rkd.num-prototypes=16",
            "proto-rkd.structure-weight=0.5",
            "proto-rkd.structure-prototypes=8",
            "proto-rkd.corpus-landmarks=64",
            "proto-rkd.symmetric=0.5",
        ),
    },
}
"""Options of distill by name; what is named ``pack`` is the form of the pack."""


def waits(setup: Setup) -> Iterator[dict[str, Any]]:
    """Count the waits of each configuration by line; 0 are expected."""
    on_gpu = setup.device.type == "cuda"
    total = num_failed = 0
    for name, options in CONFIGURATIONS.items():
        if options.get("precision") == "fp16" and not on_gpu:
            continue
        counts: Counter[str] = Counter()
        with watched(counts, num_steps=_NUM_STEPS * options.get("accumulate_steps", 1), watch=on_gpu):
            failure = attempted(_train, setup, options)
        total, num_failed = total + counts.total(), num_failed + bool(failure)
        yield {
            name: {**failure, "waits": counts.total(), **counts},
            "total": total,
            "failed_configurations": num_failed,
        }


def _train(setup: Setup, options: dict[str, Any]) -> dict[str, str]:
    train_small(setup, num_steps=_NUM_STEPS, log_every_steps=1000, **options)
    return {}


@contextmanager
def watched(
    counts: Counter[str], *, num_steps: int, watch: bool, switch: Callable[[str], None] = torch.cuda.set_sync_debug_mode
) -> Iterator[None]:
    """Count waits from a warm step's first forward to the end of the last step, with all that the loop does between.

    Args:
        counts: Receives the waits by ``file:line`` of the project's innermost line, and torch's, where they differ.
        num_steps: Micro-batches until the training ends, which then waits to be saved.
        watch: Whether there is a GPU to watch.
        switch: Turns torch's watch to "warn" or "default".
    """
    calls = 0
    forward, update = TrainingStep.forward, TrainingStep.update

    @wraps(forward)
    def begin(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if watch and calls == num_steps * _WARM_STEPS // _NUM_STEPS + 1:
            switch("warn")
        return forward(*args, **options)

    @wraps(update)
    def end(*args: Any, **options: Any) -> Any:
        result = update(*args, **options)
        if watch and calls == num_steps:
            switch("default")
        return result

    with mock.patch.multiple(TrainingStep, forward=begin, update=end), _counted(counts):
        try:
            yield
        finally:
            if watch:
                switch("default")


@contextmanager
def _counted(counts: Counter[str]) -> Iterator[None]:
    def note(message: Any, _category: Any, filename: str, lineno: int, *_rest: Any) -> None:
        if _MESSAGE in str(message):
            counts[_place(f"{filename}:{lineno}")] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        yield


def _place(innermost: str) -> str:
    """Name the project's line that waits; torch's own for what torch does by itself, as in a backward pass."""
    own = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if Path(frame.filename).is_relative_to(ROOT / "stages")
    ]
    innermost = innermost.removeprefix(f"{ROOT}/")
    if not own or own[-1] == innermost:
        return innermost
    return f"{own[-1]} ({'/'.join(innermost.split('/')[-2:])})"
