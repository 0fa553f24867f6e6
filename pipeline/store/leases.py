"""Leases: which process of a joint run does what, on any machines, without a coordinator and without common clocks."""

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Self

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.store.shared_place import SharedPlace

LEASE_VARIABLE = "PROTORKD_LEASE_S"
DEFAULT_LEASE_S = 60.0
_BEATS_A_LEASE = 6
_LEASES, _BEATS = "leases", "beats"


class Leases:
    """Claims of work by name, each of which holds for as long as its process is seen to live.

    A lease is the record ``leases/<name>.<generation>``, which holds its owner and never changes. It is created on
    condition that there is none, so that one process gets it; the next generation is created in the same way once the
    owner is gone. A process lives while its record ``beats/<owner>`` changes: it writes it every sixth of a lease, and
    removes it when it ends.

    No clock is compared with another: a process counts, by its own monotonic clock, for how long it has watched a beat
    stay the same. Time in which it did not look, because it was stopped, does not count. So a lease may be taken over
    late, and from a process that is only slow, but nobody waits for one that is dead.

    Two may therefore do the same work. That is waste and no harm: what they make is published under conditions, too.

    Args:
        place: Place that all processes see.
        lease_s: Seconds without a beat after which a process counts as dead.
    """

    def __init__(self, place: SharedPlace, *, lease_s: float) -> None:
        self._place, self._lease_s = place, lease_s
        self.beat_s = lease_s / _BEATS_A_LEASE
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
        self.owner = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._generations: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._silence: dict[str, tuple[str, float]] = {}  # of each owner: its last beat, and seconds without another
        self._looked = time.monotonic()
        self._num_beats = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="leases", daemon=True)

    def __enter__(self) -> Self:
        """Begin to beat: no lease is taken before."""
        self._beat()
        self._look()
        self.look_for_leases()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up all leases at once."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(ProtoRKDError, OSError):
            self._place.remove(f"{_BEATS}/{self.owner}")

    def look_for_leases(self) -> None:
        """Learn of the leases that others have taken; `claim` would find out one by one."""
        for entry in self._place.names(_LEASES):
            name, _, generation = entry.rpartition(".")
            if generation.isdigit():
                self._generations[name] = max(int(generation), self._generations.get(name, 0))

    def claim(self, name: str) -> bool:
        """Take a lease that nobody has, or whose owner is gone; tell whether this call did.

        Args:
            name: Name of the work, which is part of a key.
        """
        if not self.is_free(name):
            return False
        self._generations[name] = generation = self._generations.get(name, -1) + 1
        key = f"{_LEASES}/{name}.{generation}"
        # An answer may be lost, and the request sent again: then the lease that is there is this process's own.
        is_ours = self._place.create(key, self.owner.encode()) or self._owner(name, generation) == self.owner
        if is_ours and generation:
            log.info("taking over %s from %s, which is gone", name, self._owner(name, generation - 1))
        return is_ours

    def is_free(self, name: str) -> bool:
        """Tell whether nobody who lives has the lease, as far as is known."""
        generation = self._generations.get(name, -1)
        return generation < 0 or not self._lives(self._owner(name, generation))

    def was_taken_over(self, name: str) -> bool:
        """Tell whether a lease is of another generation than the first: the work may have been done."""
        return self._generations.get(name, 0) > 0

    def others(self) -> list[str]:
        """Name the other processes that live, as of the last look."""
        with self._lock:
            names = [name for name, (_, silent) in self._silence.items() if silent < self._lease_s]
        return [name for name in names if name != self.owner]

    def _owner(self, name: str, generation: int) -> str:
        """Return the owner of a lease; "" where it cannot be read, which counts as gone."""
        key = f"{_LEASES}/{name}.{generation}"
        if key not in self._owners:
            data = self._place.read(key)
            if data is None:
                return ""
            self._owners[key] = data.decode(errors="replace")
        return self._owners[key]

    def _lives(self, owner: str) -> bool:
        if owner == self.owner:
            return True
        if owner not in self._silence:
            self._look()  # it may have begun since the last look
        return self._silence.get(owner, ("", self._lease_s))[1] < self._lease_s

    def _look(self) -> None:
        """Add to the silence of each process whose beat is the same as at the last look."""
        tags = self._place.tags(_BEATS)
        with self._lock:
            now = time.monotonic()
            passed = min(now - self._looked, 2 * self.beat_s)
            self._looked = now
            seen = {}
            for owner, tag in tags.items():
                before = self._silence.get(owner)
                seen[owner] = (tag, before[1] + passed if before and before[0] == tag else 0.0)
            self._silence = seen

    def _beat(self) -> None:
        self._num_beats += 1
        self._place.write(f"{_BEATS}/{self.owner}", f"{self._num_beats}".encode())

    def _keep_beating(self) -> None:
        while not self._ended.wait(self.beat_s):
            try:
                self._beat()
                self._look()
            except (ProtoRKDError, OSError) as error:  # others may take over; what this one makes counts all the same
                log.debug("no beat: %s", error)


def lease_seconds() -> float:
    """Return for how many seconds a process may be silent, by the environment.

    Raises:
        ProtoRKDError: that is no number above 0.
    """
    text = os.environ.get(LEASE_VARIABLE) or str(DEFAULT_LEASE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ProtoRKDError(f"{LEASE_VARIABLE} must be a number of seconds above 0; got {text!r}. 60 is usual.")
    return seconds
