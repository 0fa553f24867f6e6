"""Several devices, played by processes on the CPU: who does what, what is told where one ends, and how all end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from processes import ROOT, is_alive

from data_schemas.errors import ProtoRKDError
from stages.components.compute.device_processes import DeviceProcesses, count

MUST_LIVE = "The processes that compute on cpu, cpu must stay alive; one has ended"


def work_under(threads: int = 1, devices: tuple[str, ...] = ("cpu", "cpu")) -> DeviceProcesses:
    return DeviceProcesses(devices, torch.device, num_threads=threads, work="compute")


def run_code(_device: torch.device, code: str) -> object:
    return eval(code, {"os": os, "time": time, "count": count})


@pytest.fixture
def processes() -> Iterator[DeviceProcesses]:
    made = work_under()
    yield made
    made.stop()


@pytest.fixture
def own_processes() -> Callable[[], set[int]]:
    """Return those that this test has started."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: {process.pid for process in multiprocessing.active_children() if process.pid} - before


def test_processes__call_functions_with_their_model(own_processes: Callable[[], set[int]]) -> None:
    with work_under() as processes:
        answers = [processes.ask(str) for _ in range(3)]
        assert processes.results(answers, advance=lambda _: None) == ["cpu"] * 3
        assert len(own_processes()) == 2
    assert not own_processes()


def test_processes__tell_how_much_they_have_done(processes: DeviceProcesses) -> None:
    told: list[int] = []
    answers = [processes.ask(run_code, code) for code in ("count(3)", "count(4)")]
    processes.results(answers, advance=told.append)
    assert sum(told) == 7


def test_processes__divide_the_cores_that_read_images(processes: DeviceProcesses) -> None:
    assert processes.result(processes.ask(run_code, "os.environ['LOCAL_WORLD_SIZE']")) == "2"


def test_processes__pass_on_the_first_error_and_end(own_processes: Callable[[], set[int]]) -> None:
    def work() -> None:
        with work_under() as processes:
            answers = [processes.ask(run_code, code) for code in ("time.sleep(600)", "1 / 0")]
            processes.results(answers, advance=lambda _: None)

    with pytest.raises(ZeroDivisionError):
        work()
    assert not own_processes()


def test_process__that_dies_is_told_of(processes: DeviceProcesses, own_processes: Callable[[], set[int]]) -> None:
    answer, [process] = processes.ask(run_code, "time.sleep(600)"), own_processes()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ProtoRKDError, match=MUST_LIVE):
        processes.result(answer)
    with pytest.raises(ProtoRKDError, match=MUST_LIVE):
        processes.ask(str)


def test_processes__end_at_once_when_they_are_stopped(
    processes: DeviceProcesses, own_processes: Callable[[], set[int]]
) -> None:
    answers = [processes.ask(run_code, "time.sleep(600)") for _ in range(2)]
    assert len(own_processes()) == 2
    processes.stop()
    assert not own_processes()
    with pytest.raises(ProtoRKDError, match="must stay alive"):
        processes.result(answers[0])


SCRIPT = """
import multiprocessing, time
from stages.components.compute.device_processes import DeviceProcesses

def nap(_model):
    time.sleep(600)

if __name__ == "__main__":
    processes = DeviceProcesses(["cpu", "cpu"], str, num_threads=1, work="compute")
    processes.ask(nap), processes.ask(nap)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_processes__do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command, environment = [sys.executable, str(script)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
        deadline = time.monotonic() + 60
        while any(map(is_alive, children)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
