"""Compare two ways of doing the same thing: time, in turn and beside what the machine can do, and memory."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

_CPU = 0  # the profiler's number for it


@dataclass(frozen=True)
class Comparison:
    """A quantity of two ways of doing the same thing, measured in pairs.

    Args:
        subject: What was done.
        unit: Unit of the measurements.
        baseline_name: The way that ours is compared with.
        baseline: Measurements of that way.
        ours: Measurements of ours, in the same order: entry i of both was measured side by side.
        bar: Ratio that is aimed for.
        limit_name: What bounds it physically on this machine, such as the matrix product alone.
        limit: Measurements of the limit, beside the others.
    """

    subject: str
    unit: str
    baseline_name: str
    baseline: list[float]
    ours: list[float]
    bar: float | None = None
    limit_name: str = ""
    limit: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours, one per pair: above 1 where ours needs less."""
        return [baseline / ours for baseline, ours in zip(self.baseline, self.ours, strict=True)]

    @property
    def shares(self) -> list[float]:
        """Limit over ours, one per pair: 1 where nothing quicker is possible; empty where no limit was measured."""
        return [limit / ours for limit, ours in zip(self.limit, self.ours, strict=True)] if self.limit else []


@dataclass(frozen=True)
class Limit:
    """What the machine can do at best.

    Args:
        name: Name of the limit, such as "copying the same bytes".
        function: Function to time.
        share: Share of one call of ours that a call does; its time is divided by it.
    """

    name: str
    function: Callable[[], object]
    share: float = 1.0


def compare_time(
    subject: str,
    *,
    baseline_name: str,
    baseline: Callable[[], object],
    ours: Callable[[], object],
    num_pairs: int,
    bar: float | None = None,
    limit: Limit | None = None,
) -> Comparison:
    """Time both, and the limit, in turn; every other round goes backwards, so that drift cancels. Warm them before."""
    functions = [baseline, ours] if limit is None else [baseline, ours, limit.function]
    times: list[list[float]] = [[] for _ in functions]
    for pair in range(num_pairs):
        numbers = range(len(functions))
        for number in numbers if pair % 2 == 0 else reversed(numbers):
            times[number].append(seconds(functions[number]))
    comparison = Comparison(subject, "s", baseline_name, baseline=times[0], ours=times[1], bar=bar)
    if limit is None:
        return comparison
    return replace(comparison, limit_name=limit.name, limit=[time / limit.share for time in times[2]])


def compare_peak_memory(
    subject: str, *, baseline_name: str, baseline: Callable[[], object], ours: Callable[[], object]
) -> Comparison:
    """Compare the peaks of memory; what torch asks for is the same in every call, so one pair says it."""
    peaks = [[peak_memory(function) / 1e6] for function in (baseline, ours)]
    return Comparison(subject, "MB", baseline_name, baseline=peaks[0], ours=peaks[1])


def peak_memory(function: Callable[[], object]) -> int:
    """Measure the most bytes that torch held on the CPU during the call, beyond those it held before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log warns of missing GPUs
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
    """Write a line per comparison: medians, with the range from least to greatest in brackets."""
    rows = [("", "baseline", "ours", "baseline / ours", "bar", "share of the limit")]
    for each in comparisons:
        subject = f"{each.subject}, {each.unit}, against {each.baseline_name}"
        bar = (
            ""
            if each.bar is None
            else f"{each.bar:g}" + ("" if statistics.median(each.ratios) >= each.bar else " (missed)")
        )
        share = f"{_spread(each.shares)} of {each.limit_name}" if each.shares else ""
        rows.append((subject, _spread(each.baseline), _spread(each.ours), _spread(each.ratios), bar, share))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def seconds(function: Callable[[], object]) -> float:
    """Measure the wall-clock seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _spread(values: list[float]) -> str:
    median = f"{statistics.median(values):.3g}"
    return median if len(values) == 1 else f"{median} ({min(values):.3g} to {max(values):.3g})"
