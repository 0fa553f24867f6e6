"""Metrics of training: summed on the device, read every so many steps, one JSON line each time."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.files import append_line, write_atomic
from pipeline.log import log
from stages.image_batches import Batch

_NEVER = 1 << 62


class Metrics:
    """Writes ``metrics.jsonl``.

    Args:
        path: of the file; lines of steps that a resumed run takes again are dropped.
        keep_to_step: the last step whose line stays.
        every: steps between lines.
    """

    def __init__(self, path: Path, *, keep_to_step: int, every: int) -> None:
        self._path = path
        self._every = every
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= keep_to_step]
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
        self._reset()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and note how long each was waited for."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self._wait_s += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, *, num_images: int, lr: float, values: dict[str, Tensor]) -> None:
        """Take one step's numbers, without waiting for the device.

        Args:
            num_images: pictures in the step.
            lr: the step's learning rate.
            values: scalars by name, "loss" among them.
        """
        for name, value in values.items():
            number = value.detach().float()
            self._sums[name] = self._sums[name] + number if name in self._sums else number
        self._num_steps += 1
        self._num_images += num_images
        self._lr = lr

    def write_when_due(self, step: int, *, epoch: float) -> None:
        """Write a line if this step is one that has a line.

        Raises:
            ProtoRKDError: as `check_finite`.
        """
        if step % self._every or not self._num_steps:
            return
        self.check_finite(step)
        elapsed_s = time.monotonic() - self._since
        rate, waiting = self._num_images / elapsed_s, self._wait_s / elapsed_s
        means = {name: float(value) / self._num_steps for name, value in self._sums.items()}
        line = {"step": step, "epoch": round(epoch, 4), **means, "lr": self._lr}
        timing = {"images_per_s": round(rate, 1), "data_wait_share": round(waiting, 4)}
        append_line(self._path, json.dumps(line | timing))
        log.info(
            "distill: step %d, epoch %.2f, loss %.5f, lr %.2e, %.0f pictures/s, %.0f %% of the time waiting for data",
            step, epoch, means["loss"], self._lr, rate, 100 * waiting,
        )  # fmt: skip
        self._reset()

    def check_finite(self, step: int) -> None:
        """Stop before a state is saved that has nothing to go on from.

        Raises:
            ProtoRKDError: the loss is NaN or infinite.
        """
        if "loss" in self._sums and not math.isfinite(float(self._sums["loss"])):
            raise ProtoRKDError(
                f"The loss must stay finite; it is not, within the {self._num_steps} steps up to step {step}. "
                "Try a lower --lr, more --warmup-steps or --precision fp32."
            )

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._num_images = 0
        self._wait_s = 0.0
        self._lr = 0.0
        self._since = time.monotonic()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER  # torn by a kill
