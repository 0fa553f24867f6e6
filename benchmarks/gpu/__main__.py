"""Measure on one GPU whatever can only be learned there, and print a table of it."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.gpu.day import Day
from benchmarks.gpu.plan import GROUPS, choose, names_of
from benchmarks.gpu.records import DONE, collect, read_record
from benchmarks.gpu.table import table

_SECONDS, _TINY_SECONDS = 480.0, 3600.0
_TINY_PATIENCE = 10.0  # a busy machine without a GPU needs more time for less


def main() -> None:
    """Run the steps, and print the table, also where a signal ends the day before its time."""
    chosen = parser().parse_args()
    form = "tiny" if chosen.tiny else "full"
    out, data = (folder.resolve() / form for folder in (chosen.out, chosen.data))
    groups = GROUPS if chosen.only is None else choose(GROUPS, chosen.only, lambda name: _is_done(out, name))
    options = ["--out", str(out), "--data", str(data), *(["--tiny"] if chosen.tiny else [])]
    day = Day(
        out,
        options=options,
        seconds=chosen.seconds or (_TINY_SECONDS if chosen.tiny else _SECONDS),
        patience=_TINY_PATIENCE if chosen.tiny else 1.0,
        say=lambda line: print(line, flush=True),
    )
    signals: list[int] = []

    def end(number: int, _frame: object) -> None:
        signals.append(number)
        day.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    day.run(groups)
    print(f"\n{table(collect(out, names_of(GROUPS)))}", flush=True)
    sys.exit(128 + signals[0] if signals else 0)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    made.add_argument(
        "--only",
        choices=names_of(GROUPS),
        action="append",
        help="This step alone, and what makes the data that it needs; repeatable.",
    )
    made.add_argument("--seconds", type=float, help=f"Time for the whole. Default: {_SECONDS:.0f}.")
    made.add_argument("--out", type=Path, default=Path("build/gpu"), help="Where results.json, records and logs go.")
    made.add_argument(
        "--data", type=Path, default=Path("build/gpu-data"), help="Where what is made goes, some 10 GB; it is kept."
    )
    made.add_argument("--tiny", action="store_true", help="Try the steps with tiny sizes, on a CPU where it must be.")
    return made


def _is_done(out: Path, name: str) -> bool:
    record = read_record(out, name)
    return record is not None and record.status == DONE


if __name__ == "__main__":
    main()
