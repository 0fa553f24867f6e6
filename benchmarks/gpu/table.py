"""Print the figures of a GPU day: first those that have a bar, then all others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.gpu.records import DONE, Record

MOST_CHARACTERS = 11_000
_LONGEST_WORD, _LONGEST_REASON = 48, 160


@dataclass(frozen=True)
class Bar:
    """The bound that figures have to meet.

    Args:
        figures: Pattern of their names, ``step/figure`` or ``step/configuration/figure``.
        at_least: Lower bound; None for none.
        at_most: Upper bound; None for none.
    """

    figures: str
    at_least: float | bool | None = None
    at_most: float | None = None

    def is_met_by(self, value: float) -> bool:
        """Check a figure against the bounds; NaN does not meet them."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        if isinstance(self.at_least, bool):
            return "yes"
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


BARS = (
    Bar("training/raw */share_of_bare", at_least=0.95),
    Bar("bare/best/mfu", at_least=0.45),
    Bar("teachers/bert-*/against_library", at_least=2),
    Bar("prototypes/whole/seconds", at_most=60),
    Bar("targets/device 1024/ms", at_most=0.1),
    Bar("waits/total", at_most=0),
    Bar("waits/failed_configurations", at_most=0),
    Bar("gpu-tests/as they are/is_green", at_least=True),
    Bar("exactness/crops/worst_grey_levels", at_most=1),
    Bar("resume/goes_on", at_least=True),
    Bar("ranks/*/ends_well", at_least=True),
    Bar("nccl/*/ends_well", at_least=True),
    Bar("evaluate/ends_well", at_least=True),
    Bar("deterministic/same_bytes", at_least=True),
)


def table(records: Mapping[str, Record], *, bars: Sequence[Bar] = BARS, most: int = MOST_CHARACTERS) -> str:
    """Show records as text of limited length: the end is left out where it does not fit, with a note.

    Args:
        records: Records by step; steps without one are not mentioned.
        bars: Bars; each has a line that says met, missed or not measured.
        most: Most characters of the text.
    """
    lines = [*_bar_lines(records, bars), *_other_lines(records)]
    note = "... the rest stands in results.json"
    kept: list[str] = []
    room = most - len(note)
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return "\n".join([*kept, note])
        kept.append(line)
    return "\n".join(kept)


def flat(figures: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten the figures of a step to whole names, whose parts are joined by slashes."""
    for key, value in figures.items():
        whole = f"{name}/{key}" if name else key
        if isinstance(value, Mapping):
            yield from flat(value, whole)
        else:
            yield whole, value


def _bar_lines(records: Mapping[str, Record], bars: Sequence[Bar]) -> list[str]:
    rows = [("figure", "value", "bar", "")]
    for bar in bars:
        step = bar.figures.partition("/")[0]
        if (record := records.get(step)) is None:
            continue
        measured = [(name, value) for name, value in flat(record.figures, step) if fnmatchcase(name, bar.figures)]
        for name, value in measured:
            is_met = isinstance(value, int | float) and bar.is_met_by(value)
            rows.append((name, _short(value), str(bar), "met" if is_met else "MISSED"))
        if not measured:
            rows.append((bar.figures, "", str(bar), f"not measured ({record.status})"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _other_lines(records: Mapping[str, Record]) -> Iterator[str]:
    for step, record in records.items():
        yield ""
        yield f"{step}: {record.status}, {record.seconds:.0f} s"
        yield from _lines_of(record.figures)
        if record.status != DONE and record.error:
            yield f"  {record.error.strip().splitlines()[-1][:200]}"


def _lines_of(figures: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """Yield a line for the step's own figures, and one for each configuration among them."""
    texts = {
        key: str(value)[:_LONGEST_REASON] if key == "failed" else _short(value)
        for key, value in figures.items()
        if not isinstance(value, Mapping)
    }
    if line := ", ".join(f"{key} {text}" for key, text in texts.items() if text):
        yield f"  {name}: {line}" if name else f"  {line}"
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _lines_of(value, f"{name}, {key}" if name else key)


def _short(value: Any) -> str:
    """Write a figure in few characters; long texts, such as paths, are only in the file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(map(_short, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST_WORD else ""
