"""Hold students against a baseline, image by image, in the metric that they are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.results.rows import ResultRow
from pipeline.store.store import Store
from stages.evaluate.compare.find_evaluation import Evaluation, read_evaluation
from stages.evaluate.compare.paired_comparison import Difference, compare_outcomes
from stages.evaluate.statistics.permutation_test import holm

_MOST_COMPARED = 24


@dataclass(frozen=True)
class Against:
    """A student against the baseline.

    Args:
        student: Row of the student.
        difference: Its metric minus that of the baseline, with interval; None where they cannot be compared.
        p_holm: The p-value, adjusted for all students that are compared; 1 where there is no difference.
        reason: Why they cannot be compared, or "".
    """

    student: ResultRow
    difference: Difference | None
    p_holm: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Baseline:
    """Students against a baseline.

    Args:
        student: Row of the baseline.
        metric: Metric in which they are compared.
        against: The others, in their order.
        num_left_out: Number of students beyond those that are compared.
    """

    student: ResultRow
    metric: str
    against: tuple[Against, ...]
    num_left_out: int = 0

    def place(self, difference: float) -> float:
        """Return where a difference lies, from 0 to 100, between the lowest and the highest end of all intervals.

        No difference, 0, lies between them or at one of them.
        """
        ends = [end for each in self.against if each.difference for end in each.difference.interval[:2]]
        low, high = min(0.0, *ends), max(0.0, *ends)
        return 100 * (difference - low) / (high - low) if high > low else 50.0


def choose_baseline(students: Sequence[ResultRow], reference: str | None, metric: str) -> ResultRow | None:
    """Return the student that others are held against: the named one, or the first made that has the metric.

    Raises:
        ProtoRKDError: the reference fits none of the students, or several.
    """
    if reference is None:
        measured = [row for row in students if evaluation_with(row, metric)]
        return min(measured, key=lambda row: row.artifacts[0].record.created, default=None)
    fitting = [row for row in students if row.artifacts[0].record.fingerprint.startswith(reference)]
    if len(fitting) != 1:
        names = ", ".join(row.name for row in fitting or students)
        raise ProtoRKDError(f"--baseline must name one of the students shown; got {reference!r}. Known: {names}.")
    return fitting[0]


def hold_against(baseline: ResultRow, students: Sequence[ResultRow], metric: str, *, store: Store) -> Baseline:
    """Compare students with the baseline, at most so many as a page can show; the rest is counted.

    Args:
        baseline: Row of the baseline.
        students: Rows of the students, the baseline perhaps among them.
        metric: Metric to compare.
        store: Store of their evaluations.
    """
    others = [row for row in students if row.name != baseline.name]
    first = read_outcomes_of(baseline, metric, store)
    compared = [_hold(first, row, metric, store) for row in others[:_MOST_COMPARED]]
    known = [each.difference for each in compared if each.difference]
    adjusted = iter(holm([difference.p_value for difference in known]))
    against = [Against(e.student, e.difference, next(adjusted) if e.difference else 1.0, e.reason) for e in compared]
    return Baseline(baseline, metric, tuple(against), num_left_out=len(others) - len(against))


def evaluation_with(row: ResultRow, metric: str) -> str | None:
    """Return the fingerprint of a student's newest evaluation that has a metric."""
    for artifact in reversed(row.evaluations):
        if metric in artifact.record.metrics:
            return artifact.record.fingerprint
    return None


def read_outcomes_of(row: ResultRow, metric: str, store: Store) -> Evaluation | str:
    """Read the evaluation of a student that has a metric; or say why there is none to compare."""
    fingerprint = evaluation_with(row, metric)
    if fingerprint is None:
        return f"it has no {metric}"
    try:
        return read_evaluation(fingerprint, store=store, argument=row.name)
    except ProtoRKDError as error:
        log.warning("%s is not compared: %s", row.name, error)
        return str(error)


def _hold(first: Evaluation | str, row: ResultRow, metric: str, store: Store) -> Against:
    second = read_outcomes_of(row, metric, store)
    for each in (first, second):
        if isinstance(each, str):
            return Against(row, None, reason=each)
    assert isinstance(first, Evaluation)
    assert isinstance(second, Evaluation)
    try:
        found = compare_outcomes(first.outcomes, second.outcomes, metric=metric)
    except ProtoRKDError as error:
        return Against(row, None, reason=str(error))
    return Against(row, found[0]) if found else Against(row, None, reason="no single image has this metric")
