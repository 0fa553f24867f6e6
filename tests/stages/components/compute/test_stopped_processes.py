"""Processes that are stopped while others of their run wait for them."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stages.components.compute.stopped_processes import ProcessAddress, StoppedProcessWatch, own_address

LOOK_S, LOOKS = 0.05, 6
ENDED_S = 10.0


@pytest.fixture
def other() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def watch(*addresses: ProcessAddress) -> StoppedProcessWatch:
    return StoppedProcessWatch([own_address(), *addresses], look_s=LOOK_S, looks=LOOKS)


def address_of(process: "subprocess.Popen[bytes]") -> ProcessAddress:
    return replace(own_address(), pid=process.pid)


def test_watch__ends_a_process_that_stays_stopped_and_says_which(
    other: "subprocess.Popen[bytes]", caplog: pytest.LogCaptureFixture
) -> None:
    other.send_signal(signal.SIGSTOP)
    with caplog.at_level(logging.ERROR, logger="protorkd"):
        watching = watch(address_of(other))
        assert other.wait(ENDED_S) == -signal.SIGKILL
    watching.close()
    [said] = caplog.messages
    assert said.startswith(f"Process 1 of this run ({other.pid} on this machine) must not be stopped")


def test_watch__leaves_a_process_that_goes_on_in_time(other: "subprocess.Popen[bytes]") -> None:
    watching = watch(address_of(other))
    for _ in range(4):
        other.send_signal(signal.SIGSTOP)
        time.sleep(LOOK_S * LOOKS / 2)
        other.send_signal(signal.SIGCONT)
        time.sleep(2 * LOOK_S)
    assert other.poll() is None
    watching.close()


@pytest.mark.parametrize("machine", [None, ("another boot", 1)], ids=["system without /proc", "another machine"])
def test_watch__leaves_a_number_that_means_another_process_there(
    machine: tuple[str, int] | None, other: "subprocess.Popen[bytes]"
) -> None:
    other.send_signal(signal.SIGSTOP)
    watching = watch(ProcessAddress(other.pid, machine))
    time.sleep(2 * LOOK_S * LOOKS)
    assert other.poll() is None
    watching.close()


def test_watch__passes_over_a_process_that_has_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    watch(address_of(process)).close()


def test_own_address__names_this_process() -> None:
    assert own_address().pid == os.getpid()
    assert own_address() == own_address()
