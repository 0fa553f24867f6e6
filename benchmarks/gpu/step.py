"""Run a step of a GPU day, in the process that is killed when its time is up."""

import argparse
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import DONE, Record, write_record
from benchmarks.gpu.setup import FULL, TINY, Setup


def main() -> None:
    """Run one step; ends with 1 where it fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.step", description=main.__doc__)
    parser.add_argument("name")
    parser.add_argument("call")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    setup = Setup(TINY if options.tiny else FULL, options.out, options.data)
    sys.exit(0 if run(options.name, pkgutil.resolve_name(options.call), setup) else 1)


def run(name: str, function: Callable[[Setup], Iterable[dict[str, Any]]], setup: Setup) -> bool:
    """Write the figures of a step as they come; return whether it came to its end."""
    record, start = Record(), time.monotonic()

    def write() -> None:
        record.seconds = round(time.monotonic() - start, 1)
        write_record(setup.out, name, record)

    write()
    try:
        for figures in function(setup):
            record.figures |= figures
            print(figures, flush=True)
            write()
    except Exception as error:  # whatever it is, the figures so far stay
        record.status = f"failed: {type(error).__name__}"
        record.error = traceback.format_exc()
        print(record.error, flush=True)
    else:
        record.status = DONE
    write()
    return record.status == DONE


if __name__ == "__main__":
    main()
