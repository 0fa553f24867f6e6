"""Processes that run a stage together, played by threads; who waits for something else than the others is an error."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_S = 10


class Meeting:
    """Meeting point of the threads that play ranks."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=TIMEOUT_S)
        self.values = [None] * size

    def exchange(self, rank, kind, value):
        self.values[rank] = (kind, value)
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        assert {each for each, _ in found} == {kind}
        return [each for _, each in found]


@dataclasses.dataclass(frozen=True)
class Met:
    meeting: Meeting
    rank: int

    @property
    def is_first(self):
        return self.rank == 0

    def broadcast(self, value):
        return self.meeting.exchange(self.rank, "broadcast", value)[0]

    def gather_objects(self, value):
        return self.meeting.exchange(self.rank, "gather", value)

    def leave(self):
        self.meeting.exchange(self.rank, "leave", None)


def together(size, work):
    """Run a function in threads that have met; return what each returns or raises, by rank."""
    meeting = Meeting(size)

    def run(rank):
        try:
            return work(Met(meeting, rank))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))
