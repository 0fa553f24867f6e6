"""A short run of ``python -m tests.support.fuzz``."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_readers__read_or_refuse_whatever_they_are_given() -> None:
    words = [sys.executable, "-m", "tests.support.fuzz", "--inputs", "500", "--seed", "7"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in done.stdout.splitlines()}
    assert sum(counts.values()) == 500
    assert min(counts[kind] for kind in ("manifest read", "manifest refused", "image read")) > 25
