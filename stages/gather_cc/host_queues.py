"""Queues of requests by host: hosts take turns, and a slow one does not hold up others."""

import heapq
import itertools
from collections import Counter, deque
from dataclasses import dataclass

from yarl import URL


@dataclass(frozen=True, slots=True)
class Job:
    """A row to request.

    Args:
        row: Number of the row in the table.
        url: URL of the next request.
        redirects: Number of redirects that were followed.
        retries: Number of retries so far.
        start: Time of the first request, in seconds of the loop's clock; None before it.
    """

    row: int
    url: URL
    redirects: int = 0
    retries: int = 0
    start: float | None = None

    @property
    def host(self) -> str:
        """Host of the next request."""
        return self.url.host or ""


class HostQueues:
    """Queues of waiting jobs, one for each host.

    Args:
        per_host: Largest number of requests to one host at a time.
    """

    def __init__(self, *, per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, deque[Job]] = {}
        self._out: Counter[str] = Counter()
        self._turns: dict[str, None] = {}  # hosts that have a job and room for it, in order of their turns
        self._paused: dict[str, float] = {}
        self._alarms: list[tuple[float, int, str, Job | None]] = []  # a time at which a job or a host becomes ready
        self._numbers = itertools.count()
        self._num_jobs = 0

    def __len__(self) -> int:
        """Return the number of waiting jobs, including those that wait for a time."""
        return self._num_jobs

    def add(self, job: Job, *, at: float = 0.0) -> None:
        """Add a job, which waits for its host's turn, and until a time if one is given."""
        self._num_jobs += 1
        if at:
            heapq.heappush(self._alarms, (at, next(self._numbers), job.host, job))
        else:
            self._enqueue(job)

    def pause(self, host: str, *, until: float) -> None:
        """Send no requests to a host until a time."""
        self._paused[host] = max(until, self._paused.get(host, 0.0))
        self._turns.pop(host, None)
        heapq.heappush(self._alarms, (self._paused[host], next(self._numbers), host, None))

    def take(self, now: float) -> Job | None:
        """Take the next job out of its queue; None if no host with a job has room."""
        self._release_due(now)
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
        """Note that a request to a host has ended."""
        self._out[host] -= 1
        if not self._out[host]:
            del self._out[host]  # too many hosts to keep zeros for
        self._line_up(host)

    def next_alarm(self) -> float | None:
        """Return the earliest time at which something becomes ready; None if nothing waits for a time."""
        return self._alarms[0][0] if self._alarms else None

    def _release_due(self, now: float) -> None:
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
            queue.appendleft(job)  # begun rows are finished first
        self._line_up(job.host)

    def _line_up(self, host: str) -> None:
        if host in self._waiting and host not in self._paused and self._out[host] < self._per_host:
            self._turns[host] = None
