"""Run the command line as a real process with its own session, and observe its descendants, memory and remains."""

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
        status: Exit status.
        seconds: Seconds since it was asked to end.
        said: Its text on stderr.
    """

    status: int
    seconds: float
    said: str


@dataclass(frozen=True)
class Command:
    """A command that runs.

    Args:
        process: Process of the command, which leads its session.
        log: File with its stderr.
    """

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def all(self) -> list[int]:
        """Numbers of the command and of all processes that it has started, directly or not."""
        return [number for number in _all_processes() if _session_of(number) == self.process.pid]

    @property
    def readers(self) -> list[int]:
        """Processes that read images, which the server has forked."""
        parents = {number: _parent_of(number) for number in self.all}
        return [number for number, parent in parents.items() if parents.get(parent, 0) == self.process.pid]

    def memory_mb(self) -> float:
        """Resident memory of all processes in MB; shared memory counts in each."""
        return sum(_resident_mb(number) for number in self.all)

    def num_files(self) -> int:
        """Open file descriptors of all processes."""
        return sum(_num_files(number) for number in self.all)

    def said(self) -> str:
        """Read what it has written to stderr so far."""
        return self.log.read_text()

    def signal_group(self, number: signal.Signals) -> float:
        """Signal the group of the command, as a terminal or torchrun does; return the moment."""
        os.killpg(self.process.pid, number)
        return time.monotonic()

    def ended(self, *, since: float, timeout_s: float) -> Ended:
        """Wait for the end of the command."""
        status = self.process.wait(timeout_s)
        return Ended(status=status, seconds=time.monotonic() - since, said=self.said())

    def left_over(self, *, timeout_s: float) -> list[int]:
        """Wait until no processes are left, at most so many seconds; return those that are."""
        deadline = time.monotonic() + timeout_s
        while (found := self.all) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def started(*words: object, log: Path) -> Iterator[Command]:
    """Start the command line; processes that remain are killed in the end."""

    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets background processes ignore it

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
    """List shared memory abandoned since then; other processes get some time to tidy up."""
    deadline = time.monotonic() + timeout_s
    left = abandoned_memory() - before
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left &= abandoned_memory()
    return left


def abandoned_memory() -> set[str]:
    """List the system's shared memory that no process uses."""
    names = {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    for number in _all_processes() if names else ():
        with contextlib.suppress(OSError):
            mapped = Path(f"/proc/{number}/maps").read_text()
            opened = {str(path.readlink()) for path in Path(f"/proc/{number}/fd").iterdir()}
            names = {name for name in names if f"/dev/shm/{name}" not in mapped and f"/dev/shm/{name}" not in opened}
    return names


def is_alive(number: int) -> bool:
    """Tell whether a process still runs."""
    try:
        return _status(number)[0] != "Z"
    except (OSError, IndexError):
        return False


def own_files() -> set[str]:
    """List the targets of this process's file descriptors."""
    targets = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.add(f"{path.name} {path.readlink()}")
    return targets


def own_memory_mb() -> float:
    """Measure the resident memory of this process, in MB."""
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
    """Read state and parent of a process, which follow the name in its brackets."""
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
