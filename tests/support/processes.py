"""The command line as a real process with a session of its own: its descendants, their memory, and what it leaves."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        status: of the exit.
        seconds: from when it was asked to.
        said: on stderr.
    """

    status: int
    seconds: float
    said: str


@dataclass(frozen=True)
class Command:
    """A command that runs.

    Args:
        process: the command itself, which leads its session.
        log: what it writes to stderr.
    """

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def all(self) -> list[int]:
        """It and all processes that it has started, directly or not, by number."""
        return [number for number in _all_processes() if _session_of(number) == self.process.pid]

    @property
    def readers(self) -> list[int]:
        """The processes that read images: what the server has forked."""
        parents = {number: _parent_of(number) for number in self.all}
        return [number for number, parent in parents.items() if parents.get(parent, 0) == self.process.pid]

    def memory_mb(self) -> float:
        """Resident memory of all processes; what they share counts in each."""
        return sum(_resident_mb(number) for number in self.all)

    def num_files(self) -> int:
        """Open file descriptors of all processes."""
        return sum(_num_files(number) for number in self.all)

    def said(self) -> str:
        """What it has written to stderr so far."""
        return self.log.read_text()

    def signal_group(self, number: signal.Signals) -> float:
        """Signal the group of the command, as a terminal or torchrun does; the moment."""
        os.killpg(self.process.pid, number)
        return time.monotonic()

    def ended(self, *, since: float, timeout_s: float) -> Ended:
        """Wait for the end of the command."""
        status = self.process.wait(timeout_s)
        return Ended(status=status, seconds=time.monotonic() - since, said=self.said())

    def left_over(self, *, timeout_s: float) -> list[int]:
        """Processes that are still there after so many seconds, or none as soon as there are none."""
        deadline = time.monotonic() + timeout_s
        while (found := self.all) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def started(*words: object, log: Path) -> Iterator[Command]:
    """Start the command line; what is left of it is killed in the end."""

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what runs in the background ignore it

    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=interruptible,  # noqa: PLW1509 - it takes no lock that a thread may hold
        )
    command = Command(process, log)
    try:
        yield command
    finally:
        for number in command.all:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()


def abandoned_since(before: set[str], *, timeout_s: float = 10.0) -> set[str]:
    """What of shared memory is abandoned and was not before; others' processes may be about to tidy up."""
    deadline = time.monotonic() + timeout_s
    left = abandoned_memory() - before
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left &= abandoned_memory()
    return left


def abandoned_memory() -> set[str]:
    """What lies in the system's shared memory, and no process uses."""
    names = {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    for number in _all_processes() if names else ():
        with contextlib.suppress(OSError):
            mapped = Path(f"/proc/{number}/maps").read_text()
            opened = {str(path.readlink()) for path in Path(f"/proc/{number}/fd").iterdir()}
            names = {name for name in names if f"/dev/shm/{name}" not in mapped and f"/dev/shm/{name}" not in opened}
    return names


def is_alive(number: int) -> bool:
    """Whether a process still runs."""
    try:
        return _status(number)[0] != "Z"
    except (OSError, IndexError):
        return False


def own_files() -> set[str]:
    """What this process's file descriptors point to."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{path.name} {path.readlink()}")
    return found


def own_memory_mb() -> float:
    """Resident memory of this process."""
    return _resident_mb(os.getpid())


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _session_of(number: int) -> int:
    try:
        return -1 if _status(number)[0] == "Z" else os.getsid(number)
    except (OSError, IndexError):
        return -1


def _parent_of(number: int) -> int:
    try:
        return int(_status(number)[1])
    except (OSError, IndexError):
        return -1


def _status(number: int) -> list[str]:
    """State and parent, which follow the name in its brackets."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()


def _resident_mb(number: int) -> float:
    try:
        return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * _PAGE_MB
    except (OSError, IndexError):
        return 0.0


def _num_files(number: int) -> int:
    try:
        return len(list(Path(f"/proc/{number}/fd").iterdir()))
    except OSError:
        return 0
