"""Two ways of doing the same thing, timed in turn, and the memory that a function asks for."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_CPU = 0  # the profiler's number for it


@dataclass(frozen=True)
class Comparison:
    """The same quantity of two ways of doing the same thing, measured in pairs.

    Args:
        subject: What was done.
        unit: Of the measurements.
        baseline_name: The way that ours is compared with.
        baseline: Its measurements.
        ours: Ours, in the same order: entry i of both was measured side by side.
    """

    subject: str
    unit: str
    baseline_name: str
    baseline: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours, one per pair: above 1 where ours needs less."""
        return [baseline / ours for baseline, ours in zip(self.baseline, self.ours, strict=True)]


def compare_time(
    subject: str, *, baseline_name: str, baseline: Callable[[], object], ours: Callable[[], object], num_pairs: int
) -> Comparison:
    """Time both in turn; every other pair starts with ours, so that drift cancels. Call each once before: warm."""
    times: dict[Callable[[], object], list[float]] = {baseline: [], ours: []}
    for pair in range(num_pairs):
        for function in (baseline, ours) if pair % 2 == 0 else (ours, baseline):
            times[function].append(_seconds(function))
    return Comparison(subject, "s", baseline_name, times[baseline], times[ours])


def compare_peak_memory(
    subject: str, *, baseline_name: str, baseline: Callable[[], object], ours: Callable[[], object]
) -> Comparison:
    """Compare the peaks of memory; what torch asks for is the same in every call, so one pair says it."""
    peaks = [[peak_memory(function) / 1e6] for function in (baseline, ours)]
    return Comparison(subject, "MB", baseline_name, *peaks)


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes that torch held on the CPU at a time during the call, beyond what it held before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log speaks of GPUs that are not there
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = [event for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(allocations, key=lambda event: float(event["ts"])):
        if event["args"]["Device Type"] == _CPU:
            held += int(event["args"]["Bytes"])
            peak = max(peak, held)
    return peak


def table(comparisons: list[Comparison]) -> str:
    """One line a comparison: medians, and from the least to the greatest in brackets."""
    rows = [("", "baseline", "ours", "baseline / ours")]
    for each in comparisons:
        subject = f"{each.subject}, {each.unit}, against {each.baseline_name}"
        rows.append((subject, _spread(each.baseline), _spread(each.ours), _spread(each.ratios)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _spread(values: list[float]) -> str:
    median = f"{statistics.median(values):.3g}"
    return median if len(values) == 1 else f"{median} ({min(values):.3g} to {max(values):.3g})"


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
