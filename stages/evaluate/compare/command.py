"""The command ``compare``: print how two evaluations differ, image by image, as a table or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands.store_options import store_options
from pipeline.log import log, show_log
from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, click_options, option, take
from pipeline.store.store import Store
from pipeline.terminal import echo

if TYPE_CHECKING:
    from stages.evaluate.compare.find_evaluation import Evaluation
    from stages.evaluate.compare.paired_comparison import Difference

SIGNIFICANCE = 0.05
_COLUMNS = ("metric", "A", "B", "B - A", "95 % interval", "images", "p", "p (Holm)", "")
_LEFT = (0, 8)


@dataclass(frozen=True)
class CompareOptions:
    """Options of the random draws: seed and number of resamples."""

    seed: int = option(0, help="Seed of the resamples and permutations.", check=NOT_NEGATIVE)
    resamples: int = option(
        1000, help="Resamples for each interval; a p-value by permutation takes twice as many.", check=POSITIVE
    )


@dataclass(frozen=True)
class ComparedMetric:
    """A metric in the comparison, one line of the table.

    Args:
        name: Name of the metric.
        first: Its value in evaluation A.
        second: Its value in evaluation B.
        difference: B - A, in the metric's unit.
        low: Lower end of the difference's 95 % interval.
        high: Upper end of that interval.
        num_pictures: Number of images that were compared.
        p_value: The p-value of this difference, looked at alone.
        p_holm: The p-value adjusted for all differences that are looked at together.
        differs: Whether ``p_holm`` is `SIGNIFICANCE` or less.
    """

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    num_pictures: int
    p_value: float
    p_holm: float
    differs: bool


@click.command(params=[*click_options(CompareOptions), *store_options()])
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object on stdout.")
def compare(store: Store, first: str, second: str, as_json: bool, **values: Any) -> None:
    """Compare two evaluations image by image: differences with 95 % intervals.

    A and B are evaluations, or students, of which the newest evaluation is taken, each by path or by the beginning of
    its fingerprint. REF@epoch_3 takes a checkpoint; without, the last is taken, or the only one.
    """
    from stages.evaluate.compare.find_evaluation import read_evaluation
    from stages.evaluate.compare.paired_comparison import Draws, compare_outcomes

    show_log()
    options = take(CompareOptions, values)
    pair = [
        read_evaluation(reference, store=store, argument=argument)
        for argument, reference in (("A", first), ("B", second))
    ]
    _check_distinct(*pair)
    draws = Draws(options.seed, num_resamples=options.resamples, num_permutations=2 * options.resamples)
    metrics = adjusted(compare_outcomes(pair[0].outcomes, pair[1].outcomes, draws=draws))
    left_out = sorted(pair[0].metrics.keys() & pair[1].metrics.keys() - {metric.name for metric in metrics})
    if as_json:
        described = {"first": _describe(pair[0]), "second": _describe(pair[1])}
        rows = [asdict(metric) for metric in metrics]
        echo(json.dumps({**described, "metrics": rows, "not_compared": left_out, **asdict(options)}))
        return
    if left_out:
        log.info("not compared, for no single image has them: %s", ", ".join(left_out))
    for argument, evaluation in zip("AB", pair, strict=True):
        student = evaluation.report["student"]
        echo(f"{argument}  {evaluation.name}  student {evaluation.student[:12]}, {student['backbone']}")
    echo("\n".join(["", *table(metrics), "", *notes(metrics, resamples=options.resamples)]))


def adjusted(differences: "Sequence[Difference]") -> list[ComparedMetric]:
    """Adjust the p-values of all differences that are looked at together."""
    from stages.evaluate.statistics.permutation_test import holm

    p_values = holm([difference.p_value for difference in differences])
    return [
        ComparedMetric(
            name=difference.name,
            first=difference.first,
            second=difference.second,
            difference=difference.difference,
            **difference.interval._asdict(),
            p_value=difference.p_value,
            p_holm=p_holm,
            differs=p_holm <= SIGNIFICANCE,
        )
        for difference, p_holm in zip(differences, p_values, strict=True)
    ]


def table(metrics: Sequence[ComparedMetric]) -> list[str]:
    """Lay the metrics out in aligned columns below a header; a star marks those that differ beyond chance."""
    rows = [_COLUMNS, *(_cells(metric) for metric in metrics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in _LEFT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def notes(metrics: Sequence[ComparedMetric], *, resamples: int) -> list[str]:
    """Explain how to read the table, and what it cannot tell."""
    num, num_differ = len(metrics), sum(metric.differs for metric in metrics)
    lines = [
        f"* differs beyond chance, p (Holm) {SIGNIFICANCE} or less: {num_differ} of {num}.",
        "B - A is in percentage points, that of a median rank in ranks, where lower is better.",
    ]
    if num > 1:
        lines += [
            f"{num} comparisons are made: one in twenty has a p of {SIGNIFICANCE} or less where students are alike.",
            "p (Holm) allows for that; go by it, or by the one metric that was chosen before looking.",
        ]
    if num > SIGNIFICANCE * (2 * resamples + 1):
        lines.append(
            f"Where p is drawn it is never below 1 / {2 * resamples + 1}, too coarse for {num} comparisons: pass "
            f"--resamples {10 * num} to tell more of them from chance."
        )
    lines.append("Intervals are over images like these; they say nothing of other seeds of training.")
    return lines


def _cells(metric: ComparedMetric) -> tuple[str, ...]:
    return (
        metric.name,
        f"{metric.first:.2f}",
        f"{metric.second:.2f}",
        f"{metric.difference:+.2f}",
        f"[{metric.low:+.2f}, {metric.high:+.2f}]",
        str(metric.num_pictures),
        *(f"{p:.4f}" if p >= 0.0001 else "<0.0001" for p in (metric.p_value, metric.p_holm)),
        "*" if metric.differs else "",
    )


def _describe(evaluation: "Evaluation") -> dict[str, str]:
    return {
        "evaluation": evaluation.artifact.record.fingerprint,
        "checkpoint": evaluation.checkpoint,
        "student": evaluation.student,
    }


def _check_distinct(first: "Evaluation", second: "Evaluation") -> None:
    if (first.artifact.record.digest, first.checkpoint) == (second.artifact.record.digest, second.checkpoint):
        names = [checkpoint["name"] for checkpoint in first.report["checkpoints"]]
        raise ProtoRKDError(
            f"A and B must name two evaluations; both name {first.name}. Name another student, or another checkpoint "
            f"with @; this evaluation has {', '.join(names)}."
        )
