"""A short run of what ``make torture`` does at length."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_stages__that_are_killed_at_random_moments_leave_nothing_wrong() -> None:
    words = [sys.executable, "-m", "tests.support.torture", "--kills", "10", "--seed", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        kills = ("1 kills", "2 kills") if " joined: " in line else ("1 kills",)  # of two at once one may come late
        assert any(f": {num} at work" in line for num in kills)
        assert line.endswith(" 0 wrong")
    assert len(done.stdout.splitlines()) == 10
