"""Notice that a process of a run is stopped, as by SIGSTOP, and end it: its connections stay open, and others wait.

A process is stopped where the kernel says so (`/proc`, Linux), and only there: one that is slow, that compiles for
minutes or that holds Python's lock is none. Processes of other machines are watched by those that run beside them.
"""

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.log import log

LOOK_S = 1.0
# A suspended job is stopped and continued as a whole: whoever looks stops with it, and no look is missed for it.
LOOKS = 15

_STOPPED = "T"  # not "t": a debugger holds it


@dataclass(frozen=True)
class ProcessAddress:
    """A process, and where it can be seen.

    Args:
        pid: Number of the process.
        machine: Boot of the machine and namespace of the number; None where the system does not tell.
    """

    pid: int
    machine: tuple[str, int] | None


def own_address() -> ProcessAddress:
    """Return the address of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = (boot, Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ProcessAddress(os.getpid(), None)
    return ProcessAddress(os.getpid(), machine)


class StoppedProcessWatch:
    """A thread that looks whether other processes of the run, on this machine, are stopped; and ends one that stays so.

    Its end is noticed by all that wait for it, as that of any process.

    Args:
        addresses: Addresses of all processes of the run, in their order.
        look_s: Seconds between looks.
        looks: Number of looks in a row that must find a process stopped.
    """

    def __init__(self, addresses: Sequence[ProcessAddress], *, look_s: float = LOOK_S, looks: int = LOOKS) -> None:
        own = own_address()
        self._look_s, self._looks, self._closed = look_s, looks, threading.Event()
        self._handles: dict[int, tuple[int, int]] = {}
        for number, other in enumerate(addresses):
            if other.machine is not None and other.machine == own.machine and other.pid != own.pid:
                with contextlib.suppress(OSError, AttributeError):  # it has ended, or this is no Linux
                    self._handles[number] = other.pid, os.pidfd_open(other.pid)
        if self._handles:
            threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _watch(self) -> None:
        seen: Counter[int] = Counter()
        while not self._closed.wait(self._look_s):
            for number, (pid, handle) in self._handles.items():
                seen[number] = seen[number] + 1 if _state(pid) == _STOPPED else 0
                if seen[number] == self._looks:
                    log.error(
                        "Process %d of this run (%d on this machine) must not be stopped, as by SIGSTOP, while others "
                        "wait; it has been for %.0f s, and is ended. The same command goes on from what is whole.",
                        number, pid, self._looks * self._look_s,
                    )  # fmt: skip
                    with contextlib.suppress(OSError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)  # by its handle: a number is given again


def _state(pid: int) -> str:
    """Return the letter of a process's state; "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
