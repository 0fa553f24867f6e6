"""Progress on a terminal, which a pseudo-terminal stands for, and in a log."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOOP = """
import sys, time
from pipeline import progress as module
from pipeline.log import log, show_log
module.PLAIN_INTERVAL_S = 0.05
show_log(quiet="quiet" in sys.argv)
with module.progress("packing", total=40, unit="images", done=10) as advance:
    for number in range(20):
        time.sleep(0.02)
        advance(1)
    log.info("a line of the log")
log.warning("done")
"""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(*words, **environment):
    """Run the loop with stderr on a terminal of 100 columns; what it wrote there."""
    parent, child = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", **environment}
    process = subprocess.Popen([sys.executable, "-c", LOOP, *words], stderr=child, stdout=subprocess.DEVNULL, env=env)
    os.close(child)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                part = os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
    assert process.wait(timeout=10) == 0
    os.close(parent)
    return written.decode()


def in_log(*words):
    done = subprocess.run(
        [sys.executable, "-c", LOOP, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr


def test_progress__is_a_bar_with_rate_and_time_left_on_a_terminal():
    written = on_terminal()
    drawn = ESCAPE.sub("", written)
    assert re.search(r"packing .*2\d/40 .*\d+/s .*0:00:0\d", drawn)
    assert "a line of the log" in drawn
    assert "\x1b[" in written


def test_progress__has_no_colours_where_none_are_wanted():
    colours = re.compile(r"\x1b\[[0-9;]+m")
    assert colours.search(on_terminal())
    assert not colours.search(on_terminal(NO_COLOR="1"))


def test_progress__is_plain_on_a_terminal_that_cannot_draw():
    written = on_terminal(TERM="dumb")
    assert "\x1b" not in written
    assert re.search(r"^packing: \d+ of 40 images, [\d.]+/s, \d+ s left\r?$", written, re.MULTILINE)


def test_progress__is_plain_in_a_log():
    written = in_log()
    assert "\x1b" not in written
    assert "\r" not in written
    assert re.search(r"^packing: \d+ of 40 images, [\d.]+/s, \d+ s left$", written, re.MULTILINE)


def test_progress__is_not_shown_when_quiet():
    assert in_log("quiet") == "done\n"
    assert ESCAPE.sub("", on_terminal("quiet")).strip() == "done"
