"""Keep the figures of a step on disk after every number, so that nothing is lost when the step or the day ends."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_schemas.files import write_atomic

DONE, RUNNING = "done", "running"
_FOLDER, _COLLECTION = "steps", "results.json"


@dataclass
class Record:
    """Status and figures of a step.

    Args:
        status: `DONE`, `RUNNING`, or what came between.
        seconds: Seconds that its process took.
        figures: Numbers by name, in the order in which they were measured.
        error: A traceback, or the end of the log.
    """

    status: str = RUNNING
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def write_record(out: Path, step: str, record: Record) -> None:
    """Write a step's record where `read_record` looks for it."""
    _write(out / _FOLDER / f"{step}.json", asdict(record))


def read_record(out: Path, step: str) -> Record | None:
    """Read a step's record, if it has begun."""
    path = out / _FOLDER / f"{step}.json"
    return Record(**json.loads(path.read_text())) if path.exists() else None


def forget(out: Path, step: str) -> None:
    """Remove a step's record of an earlier day."""
    (out / _FOLDER / f"{step}.json").unlink(missing_ok=True)


def collect(out: Path, steps: Sequence[str]) -> dict[str, Record]:
    """Collect the existing records of steps in one file, and return them by name."""
    records = {step: record for step in steps if (record := read_record(out, step)) is not None}
    _write(out / _COLLECTION, {step: asdict(record) for step, record in records.items()})
    return records


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value, indent=1, default=str).encode() + b"\n")
