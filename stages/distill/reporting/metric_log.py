"""Metrics of training: summed on the device, read every so many steps, one JSON line each time."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data_schemas.files import append_line, write_atomic
from stages.components.loading.batch import Batch
from stages.distill.reporting.live_view import LogView, View, open_view
from stages.distill.reporting.trackers import Reporter

_NEVER = 1 << 62
_SKIPPED = "skipped_steps"


class Metrics:
    """Writes ``metrics.jsonl``, shows its lines, and passes them to reporters.

    A number that is not finite is null in the file, and stays what it is elsewhere. Where steps were left out, a line
    says how many, as ``skipped_steps``, and the gradient's norm is the mean over the others.

    Args:
        path: Path of the file.
        every: Steps between lines of training.
        reporters: Trackers that take the lines as well.
        enabled: False on all ranks but the first: nothing is written, shown or reported.
    """

    def __init__(self, path: Path, *, every: int, reporters: Sequence[Reporter] = (), enabled: bool = True) -> None:
        self._path = path
        self._every = every
        self._reporters = reporters
        self._enabled = enabled
        self._view: View = LogView(lambda _: None)
        self._last: dict[str, float] = {}
        self._reset()

    def start(self, step: int) -> None:
        """Go on after a step; lines of later steps, which are taken again, are dropped."""
        if not self._enabled:
            return
        lines = self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_atomic(self._path, "".join(f"{line}\n" for line in kept).encode())
        for reporter in self._reporters:
            reporter.start(step)
        self._reset()

    @contextlib.contextmanager
    def shown(self, step: int, *, total_steps: int) -> Iterator[None]:
        """Show progress, as a table on a terminal and as lines elsewhere; close the reporters in the end.

        Args:
            step: Steps that an earlier run took.
            total_steps: Steps of the whole training.
        """
        with contextlib.ExitStack() as stack:
            for reporter in self._reporters:
                stack.callback(reporter.close)
            if self._enabled:
                self._view = stack.enter_context(open_view(total_steps=total_steps, done=step))
            yield
            for reporter in self._reporters:
                reporter.finish({"steps": total_steps, **self._last})

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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of something other than training, such as validation, out of images per second."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - start

    def add(self, *, num_images: int, values: Mapping[str, Tensor]) -> None:
        """Take the numbers of a micro-batch, without waiting for the device.

        Args:
            num_images: Images in the micro-batch, over all ranks.
            values: Scalars by name, "loss" among them.
        """
        self._num_images += num_images
        self._sum(values)

    def add_step(self, *, lr: float, grad_norm: Tensor, taken: Tensor | None = None) -> None:
        """Take the numbers of an optimizer step, without waiting for the device.

        Args:
            lr: Learning rate of the step.
            grad_norm: Norm of the gradient, a scalar.
            taken: Whether the optimizer took the step, a scalar; None: it did.
        """
        self._lr = lr
        if taken is None:
            self._sum({"grad_norm": grad_norm})
        else:
            self._sum({"grad_norm": torch.where(taken, grad_norm, 0), _SKIPPED: ~taken})

    def write_when_due(self, step: int, *, epoch: float) -> None:
        """Count a step as taken; where a line is due, write the means since the last one."""
        if not self._enabled:
            return
        self._view.advance()
        if step % self._every or not self._sums:
            return
        elapsed_s = time.monotonic() - self._since
        means = self._means()
        rate, waiting = self._num_images / elapsed_s, self._wait_s / elapsed_s
        speed = {"images_per_s": round(rate, 1), "data_wait_share": round(waiting, 4)}
        self.write(step, epoch=epoch, values={**means, "lr": self._lr, **speed})
        self._reset()

    def write(self, step: int, *, epoch: float, values: Mapping[str, float]) -> None:
        """Write a line at once.

        Args:
            step: Step that the line belongs to.
            epoch: Epochs up to that step.
            values: Numbers by name.
        """
        if not self._enabled:
            return
        place = {"step": step, "epoch": round(epoch, 4)}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_line(self._path, json.dumps(place | finite, allow_nan=False))
        self._view.show({**place, **values})
        self._last |= {"epoch": epoch, **values}
        for reporter in self._reporters:
            reporter.report(step, {"epoch": epoch, **values})

    def _means(self) -> dict[str, float]:
        sums = {name: float(total) for name, total in self._sums.items()}
        skipped = sums.pop(_SKIPPED, 0.0)
        counts = self._counts | {"grad_norm": self._counts.get("grad_norm", 0) - skipped}
        means = {name: total / counts[name] if counts[name] else math.nan for name, total in sums.items()}
        return {**means, _SKIPPED: int(skipped)} if skipped else means

    def _sum(self, values: Mapping[str, Tensor]) -> None:
        if not self._enabled:
            return
        for name, value in values.items():
            number = value.detach().float()
            self._sums[name] = self._sums[name] + number if name in self._sums else number
            self._counts[name] = self._counts.get(name, 0) + 1

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._num_images = 0
        self._wait_s = 0.0
        self._lr = 0.0
        self._since = time.monotonic()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER  # torn by a kill
