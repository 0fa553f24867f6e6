"""Measure where the time of training steps goes, by part, without holding the device up."""

import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from data_schemas.files import write_atomic_by, write_json
from pipeline.log import log

PROFILE_NAME, TRACE_NAME = "profile.json", "trace.json"

_WAITING = "waiting for pictures"
PARTS = (
    _WAITING,
    "copy, augment, normalise",
    "targets",
    "student forward",
    "objectives",
    "backward",
    "optimizer",
)
APART = ("validation", "saving")

_READ_EVERY = 50  # steps between two readings of a GPU's events
_TRACE_AFTER, _TRACED_STEPS = 10, 3


_Item = TypeVar("_Item")


class Clock(Protocol):
    """Receives which part of a step is going on."""

    def part(self, name: str) -> AbstractContextManager[object]:
        """Time what is done within as a part of the step."""

    def add(self, num_images: int) -> None:
        """Count images of the step."""

    def step(self) -> None:
        """End a step."""

    def close(self) -> None:
        """End the training."""


class NoClock:
    """Times nothing."""

    _nothing = nullcontext()

    def part(self, name: str) -> AbstractContextManager[object]:  # noqa: ARG002 - as of every clock
        """Do nothing."""
        return self._nothing

    def add(self, num_images: int) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class StepClock:
    """Times the parts of every step, and traces a few steps after the first ones.

    On a GPU a part is timed on the device, between two events in its stream, which are read every so many steps; what
    the host waits for, images above all, is timed by the host's clock everywhere. A part that is entered more than
    once in a step, as with micro-batches, is added up.

    Args:
        folder: Folder for ``profile.json`` and ``trace.json``.
        device: Device on which the student trains.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._steps: list[dict[str, float]] = []
        self._marks: list[tuple[int, str, torch.cuda.Event, torch.cuda.Event]] = []
        self._apart: dict[str, float] = defaultdict(float)
        self._num_images = 0
        self._now: dict[str, float] = defaultdict(float)
        self._since: float | None = None  # until the first part begins
        self._apart_in_step = 0.0
        self._trace = self._start_trace()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        on_device = self._device.type == "cuda" and name in PARTS[1:]
        begin = _event(self._device) if on_device else None
        start = time.monotonic()
        self._since = self._since or start
        try:
            yield
        finally:
            elapsed_s = time.monotonic() - start
            if begin is not None:
                self._marks.append((len(self._steps), name, begin, _event(self._device)))
            elif name in APART:
                self._apart[name] += elapsed_s
                self._apart_in_step += elapsed_s
            else:
                self._now[name] += elapsed_s

    def add(self, num_images: int) -> None:
        """Count images of the step."""
        self._num_images += num_images

    def step(self) -> None:
        """End a step; what went on in it beside the parts is "everything else"."""
        now = time.monotonic()
        self._steps.append({**self._now, "step": now - (self._since or now) - self._apart_in_step})
        self._now.clear()
        self._since, self._apart_in_step = now, 0.0
        if self._trace is not None:
            self._trace.step()
            if len(self._steps) == _TRACE_AFTER + 1 + _TRACED_STEPS:
                self._stop_trace()
        if len(self._steps) % _READ_EVERY == 0:
            self._read_marks()

    def close(self) -> None:
        """Write the profile and log it as a table."""
        self._stop_trace()
        self._read_marks()
        if not self._steps:
            return
        summary = summarise(self._steps, num_images=self._num_images, apart=self._apart)
        write_json(self._folder / PROFILE_NAME, summary)
        for line in table(summary):
            log.info("distill: %s", line)

    def _read_marks(self) -> None:
        if not self._marks:
            return
        self._marks[-1][3].synchronize()
        for step, name, begin, end in self._marks:
            if step < len(self._steps):
                steps = self._steps[step]
                steps[name] = steps.get(name, 0.0) + begin.elapsed_time(end) / 1000
        self._marks = [mark for mark in self._marks if mark[0] >= len(self._steps)]

    def _start_trace(self) -> Any:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        path = self._folder / TRACE_NAME

        def write(profile: torch.profiler.profile) -> None:
            write_atomic_by(path, lambda partial: profile.export_chrome_trace(str(partial)))

        with warnings.catch_warnings():
            # A warm-up step would be more exact, but a run that ends in it crashes torch 2.11 (segmentation fault).
            warnings.filterwarnings("ignore", message="Profiler won't be using warmup")
            steps = torch.profiler.schedule(wait=_TRACE_AFTER + 1, warmup=0, active=_TRACED_STEPS, repeat=1)
        trace = torch.profiler.profile(activities=activities, schedule=steps, on_trace_ready=write, acc_events=True)
        trace.start()
        return trace

    def _stop_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None


def waited_for(items: Iterable[_Item], clock: Clock) -> Iterator[_Item]:
    """Yield items, and tell the clock how long each was waited for."""
    iterator = iter(items)
    while True:
        with clock.part(_WAITING):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def summarise(
    steps: Sequence[Mapping[str, float]], *, num_images: int, apart: Mapping[str, float]
) -> dict[str, object]:
    """Sum up the times of steps.

    A GPU runs beside the host, so its parts and the host's waiting may add up to more than the steps.

    Args:
        steps: Seconds by part of each step, and of the whole step as "step".
        num_images: Images in all of them.
        apart: Seconds of what belongs to no step.

    Returns:
        What ``profile.json`` holds: for every part, the median and mean seconds in a step, and its share of all; beside
        them the seconds of every step.
    """
    total_s = sum(step["step"] for step in steps)
    columns = {name: [step.get(name, 0.0) for step in steps] for name in PARTS}
    columns["everything else"] = [max(0.0, step["step"] - sum(step.get(name, 0.0) for name in PARTS)) for step in steps]
    columns["step"] = [step["step"] for step in steps]
    parts = {
        name: {
            "median_s": statistics.median(times),
            "mean_s": statistics.fmean(times),
            "share": sum(times) / total_s if total_s else 0.0,
        }
        for name, times in columns.items()
    }
    return {
        "steps": len(steps),
        "images_per_s": num_images / total_s if total_s else 0.0,
        "parts": parts,
        "apart_s": {name: apart.get(name, 0.0) for name in APART},
        "seconds_of_steps": columns["step"],
    }


def table(summary: Mapping[str, Any]) -> list[str]:
    """Format a summary as lines of a table."""
    lines = [f"{'part of a step':26} {'median ms':>10} {'mean ms':>10} {'share':>7}"]
    for name, times in summary["parts"].items():
        figures = f"{1000 * times['median_s']:10.2f} {1000 * times['mean_s']:10.2f} {100 * times['share']:5.1f} %"
        lines.append(f"{name:26} {figures}")
    apart = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in summary["apart_s"].items())
    lines.append(f"{summary['steps']} steps, {summary['images_per_s']:.1f} images/s; apart from them: {apart}")
    return lines


def _event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
