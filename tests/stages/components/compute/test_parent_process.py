"""Processes that end with the one that started them, however that one ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import is_alive

ROOT = Path(__file__).parents[4]
GONE_S = 10.0

# A command with two processes of a server: they say their numbers, and go on for ever.
COMMAND = """
import multiprocessing, os, time
from stages.components.compute.parent_process import end_with_parent

def work():
    end_with_parent()
    print(os.getpid(), os.getppid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    processes[0].join()
"""


def test_end_with_parent__ends_processes_and_their_server_with_a_killed_command(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        numbers = {int(word) for _ in range(2) for word in command.stdout.readline().split()}
        assert len(numbers) == 3
        assert all(map(is_alive, numbers))
        command.kill()
    deadline = time.monotonic() + GONE_S
    while (left := set(filter(is_alive, numbers))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left


def test_end_with_parent__leaves_a_process_alone_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.components.compute.parent_process import end_with_parent

    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count
    end_with_parent()
    assert len(os.listdir("/proc/self/task")) == before  # noqa: PTH208
