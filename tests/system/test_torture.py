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
        assert f"{2 if 'joined' in line else 1} kills at work" in line
        assert line.endswith(" 0 wrong")
    assert len(done.stdout.splitlines()) == 10
