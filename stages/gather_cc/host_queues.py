"""What waits to be asked, by host: hosts take turns, none has more than its share, and none holds up another."""

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass

from yarl import URL


@dataclass(frozen=True, slots=True)
class Job:
    """A row on its way.

    Args:
        row: of the table.
        url: to be asked next.
        redirects: how many were followed to come here.
        retries: how many times it was asked again.
        start: when it was first asked, in seconds of the loop's clock; None before.
    """

    row: int
    url: URL
    redirects: int = 0
    retries: int = 0
    start: float | None = None

    @property
    def host(self) -> str:
        """Whose share it counts against."""
        return self.url.host or ""


class HostQueues:
    """Jobs that wait.

    Args:
        per_host: how many of one host may be out at a time.
    """

    def __init__(self, *, per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, deque[Job]] = {}
        self._out: Counter[str] = Counter()
        self._turns: dict[str, None] = {}  # hosts that have a job and room for it, in order
        self._paused: dict[str, float] = {}
        self._alarms: list[tuple[float, int, str, Job | None]] = []  # when; a job comes back, or a host may go on
        self._numbers = itertools.count()
        self._num_jobs = 0

    def __len__(self) -> int:
        """How many wait, those included that wait for a time."""
        return self._num_jobs

    def add(self, job: Job, *, at: float = 0.0) -> None:
        """Let a job wait, for its host's turn, but not before a time."""
        self._num_jobs += 1
        if at:
            heapq.heappush(self._alarms, (at, next(self._numbers), job.host, job))
        else:
            self._enqueue(job)

    def pause(self, host: str, *, until: float) -> None:
        """Ask nothing of a host until then."""
        self._paused[host] = max(until, self._paused.get(host, 0.0))
        self._turns.pop(host, None)
        heapq.heappush(self._alarms, (self._paused[host], next(self._numbers), host, None))

    def take(self, now: float) -> Job | None:
        """Take the next job out; None if there is none whose host has room."""
        self._ring(now)
        host = next(iter(self._turns), None)
        if host is None:
            return None
        del self._turns[host]
        queue = self._waiting[host]
        job = queue.popleft()
        if not queue:
            del self._waiting[host]
        self._num_jobs -= 1
        self._out[host] += 1
        self._line_up(host)
        return job

    def release(self, host: str) -> None:
        """Say that a job of a host is no longer out."""
        self._out[host] -= 1
        if not self._out[host]:
            del self._out[host]  # there are more hosts than memory is for
        self._line_up(host)

    def next_alarm(self) -> float | None:
        """When something that waits for a time may go on; None if nothing does."""
        return self._alarms[0][0] if self._alarms else None

    def _ring(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            _, _, host, job = heapq.heappop(self._alarms)
            if job is not None:
                self._enqueue(job)
            elif self._paused.get(host, now + 1) <= now:
                del self._paused[host]
                self._line_up(host)

    def _enqueue(self, job: Job) -> None:
        queue = self._waiting.setdefault(job.host, deque())
        if job.start is None:
            queue.append(job)
        else:
            queue.appendleft(job)  # what was begun is ended first
        self._line_up(job.host)

    def _line_up(self, host: str) -> None:
        if host in self._waiting and host not in self._paused and self._out[host] < self._per_host:
            self._turns[host] = None
