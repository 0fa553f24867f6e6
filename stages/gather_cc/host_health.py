"""Hosts that do not answer: one of them is given up after a while, and when none answers the run stops."""

from collections import Counter
from collections.abc import Iterator

from data_schemas.errors import ProtoRKDError
from data_schemas.gathered_folder import RowOutcome

GIVEN_UP = "host given up"


class HostHealth:
    """Watches who answers.

    When this machine loses its network every host falls silent, and no row must be called failed for that. So outcomes
    without an answer are held back until any host answers.

    Args:
        host_failures: a host that was silent so many times in a row is given up; 0 is never.
        max_silent: so many silent rows in a row stop the run; 0 is never.
    """

    def __init__(self, *, host_failures: int, max_silent: int) -> None:
        self._host_failures = host_failures
        self._max_silent = max_silent
        self._silences: Counter[str] = Counter()
        self._held: list[RowOutcome] = []
        self._num_silent = 0

    def heard(self, host: str, *, answered: bool) -> None:
        """Note whether a host answered."""
        if answered:
            self._silences.pop(host, None)
        else:
            self._silences[host] += 1

    def gave_up(self, host: str) -> bool:
        """Whether a host is not to be asked any more."""
        return 0 < self._host_failures <= self._silences[host]

    def judge(self, outcome: RowOutcome, *, answered: bool) -> Iterator[RowOutcome]:
        """Take an outcome; give those that may be believed by now.

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
        yield from self.last_words()
        yield outcome

    def last_words(self) -> Iterator[RowOutcome]:
        """Give what was held back: there is an answer, or nothing more to ask."""
        held, self._held, self._num_silent = self._held, [], 0
        yield from held
