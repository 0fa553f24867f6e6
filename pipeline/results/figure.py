"""One measure of an artifact, with what is known of its spread."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A measure.

    Args:
        value: The measure; of several runs, their mean.
        low: Lower end of its 95 % interval; None where that is not known.
        high: Upper end of that interval.
        std: Standard deviation over several runs; None for a single run.
        num_runs: Number of runs that the value is the mean of.
        better: Which values are the better ones; "" where neither are.
        is_headline: Whether the artifact is usually judged by it.
        measured_on: How large the set is that it was measured on, in words; "" where that is not known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    num_runs: int = 1
    better: Literal["higher", "lower", ""] = ""
    is_headline: bool = False
    measured_on: str = ""

    def __str__(self) -> str:
        """Write it with its interval, or its deviation: ``24.38 [23.07, 25.69]``, ``24.38 ± 0.21``."""
        if self.std is not None:
            return f"{self.value:.2f} ± {self.std:.2f}"
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def goodness(self) -> float:
        """Return a number that is the higher, the better the figure is."""
        return -self.value if self.better == "lower" else self.value
