"""Give up hosts that do not answer for long, and stop the run when no host answers."""

from collections import Counter
from collections.abc import Iterator

from data_schemas.errors import ProtoRKDError
from data_schemas.images.gathered_folder import RowOutcome

GIVEN_UP = "host given up"


class HostHealth:
    """Counts of hosts' silences, and the outcomes that are held back.

    If this machine loses its network, no host answers, and no row may count as failed for that. So outcomes without an
    answer are held back until any host answers.

    Args:
        host_failures: Number of silences in a row after which a host is given up; 0 is never.
        max_silent: Number of silent rows in a row that stops the run; 0 is never.
    """

    def __init__(self, *, host_failures: int, max_silent: int) -> None:
        self._host_failures = host_failures
        self._max_silent = max_silent
        self._silences: Counter[str] = Counter()
        self._held: list[RowOutcome] = []
        self._num_silent = 0

    def note_answer(self, host: str, *, answered: bool) -> None:
        """Note whether a host answered."""
        if answered:
            self._silences.pop(host, None)
        else:
            self._silences[host] += 1

    def is_given_up(self, host: str) -> bool:
        """Return whether a host is given up."""
        return 0 < self._host_failures <= self._silences[host]

    def judge(self, outcome: RowOutcome, *, answered: bool) -> Iterator[RowOutcome]:
        """Take an outcome, and yield those that are certain by now.

        Raises:
            ProtoRKDError: too many rows in a row had no answer.
        """
        if not answered:
            self._held.append(outcome)
            self._num_silent += outcome.reason != GIVEN_UP
            if 0 < self._max_silent <= self._num_silent:
                raise ProtoRKDError(
                    f"Some host must answer; got no answer for {self._num_silent} rows in a row, the last: "
                    f"{outcome.reason}. Look whether the network is there, or pass a larger --max-silent, and run the "
                    "same command again: these rows do not count as asked."
                )
            return
        yield from self.release_held()
        yield outcome

    def release_held(self) -> Iterator[RowOutcome]:
        """Yield the held-back outcomes, after an answer or at the end of the run."""
        held, self._held, self._num_silent = self._held, [], 0
        yield from held
