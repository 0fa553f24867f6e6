"""Steps of a GPU day that a test drives: they take no time, or too much."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.setup import Setup


def counts(setup: Setup) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    yield {"second": {"third": 3.0}}


def fails(setup: Setup) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    raise ValueError("a step failed")


def dies(setup: Setup) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    os.write(1, b"last words\n")
    os._exit(3)


def hangs(setup: Setup) -> Iterator[dict[str, Any]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield {"child": child.pid}
    time.sleep(600)


def meets_one(setup: Setup) -> Iterator[dict[str, Any]]:
    yield from _meets(setup, "one", "two")


def meets_two(setup: Setup) -> Iterator[dict[str, Any]]:
    yield from _meets(setup, "two", "one")


def _meets(setup: Setup, own: str, other: str) -> Iterator[dict[str, Any]]:
    """End when the other one has begun."""
    setup.data.mkdir(parents=True, exist_ok=True)
    (setup.data / own).touch()
    while not (setup.data / other).exists():
        time.sleep(0.01)
    yield {"met": other}
