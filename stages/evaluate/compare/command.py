"""The command ``compare``: print how evaluations differ, image by image, as tables or as JSON."""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import available_stages
from pipeline.commands.store_options import store_options
from pipeline.log import log, show_log
from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, click_options, option, take
from pipeline.results.columns import text_of
from pipeline.results.rows import make_row
from pipeline.results.table import differing_options
from pipeline.store.store import Store
from pipeline.terminal import aligned, echo

if TYPE_CHECKING:
    from stages.evaluate.compare.find_evaluation import Evaluation
    from stages.evaluate.compare.paired_comparison import Difference

SIGNIFICANCE = 0.05
LETTERS = string.ascii_uppercase


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
        second: Its value in the other evaluation.
        difference: ``second - first``, in the metric's unit.
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
@click.argument("references", metavar="A B...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object on stdout.")
def compare(store: Store, references: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Compare evaluations image by image, each with the first: differences with 95 % intervals, and their options.

    A, B and more are evaluations, or students, of which the newest evaluation is taken, each by path or by the
    beginning of its fingerprint. REF@epoch_3 takes a checkpoint; without, the last is taken, or the only one.
    """
    from stages.evaluate.compare.find_evaluation import read_evaluation
    from stages.evaluate.compare.paired_comparison import Draws, compare_outcomes

    show_log()
    if not 2 <= len(references) <= len(LETTERS):
        raise click.UsageError(f"Name 2 to {len(LETTERS)} evaluations or students; got {len(references)}.")
    options = take(CompareOptions, values)
    evaluations = [
        read_evaluation(reference, store=store, argument=letter)
        for letter, reference in zip(LETTERS, references, strict=False)
    ]
    _check_distinct(evaluations)
    first, *others = evaluations
    draws = Draws(options.seed, num_resamples=options.resamples, num_permutations=2 * options.resamples)
    differences = [compare_outcomes(first.outcomes, other.outcomes, draws=draws) for other in others]
    metrics = iter(adjusted([difference for each in differences for difference in each]))
    compared = [list(islice(metrics, len(each))) for each in differences]
    differing = _differing_options(evaluations, store)
    if as_json:
        comparisons = [_as_json(first, *each) for each in zip(others, compared, strict=True)]
        shown = comparisons[0] if len(others) == 1 else {"comparisons": comparisons}
        echo(json.dumps({"first": _describe(first), **shown, "options": differing, **asdict(options)}))
        return
    echo("\n".join(_heading(evaluations, differing)))
    for letter, other, rows in zip(LETTERS[1:], others, compared, strict=False):
        if left_out := _left_out(first, other, rows):
            log.info("not compared, for no single image has them: %s", ", ".join(left_out))
        echo("\n".join(["", *table(rows, second=letter)]))
    everything = [metric for rows in compared for metric in rows]
    echo("\n".join(["", *notes(everything, resamples=options.resamples)]))


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


def table(metrics: Sequence[ComparedMetric], *, second: str = "B") -> list[str]:
    """Lay the metrics out in aligned columns below a header; a star marks those that differ beyond chance.

    Args:
        metrics: Metrics of a comparison.
        second: Letter of the evaluation that is compared with A.
    """
    header = ("metric", "A", second, f"{second} - A", "95 % interval", "images", "p", "p (Holm)", "")
    return aligned([header, *(_cells(metric) for metric in metrics)], num_left=1)


def notes(metrics: Sequence[ComparedMetric], *, resamples: int) -> list[str]:
    """Explain how to read the table, and what it cannot tell."""
    num, num_differ = len(metrics), sum(metric.differs for metric in metrics)
    lines = [
        f"* differs beyond chance, p (Holm) {SIGNIFICANCE} or less: {num_differ} of {num}.",
        "Differences are in percentage points, those of a median rank in ranks, where lower is better.",
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


def _heading(evaluations: "Sequence[Evaluation]", differing: Mapping[str, Sequence[Any]]) -> list[str]:
    """Name the evaluations, and the options in which their students differ."""
    letters = LETTERS[: len(evaluations)]
    names = []
    for letter, each in zip(letters, evaluations, strict=True):
        backbone = each.report["student"]["backbone"] or "a head on features"
        names.append(f"{letter}  {each.name}  student {each.student[:12]}, {backbone}")
    if not differing:
        return names
    rows = [[name, *map(text_of, values)] for name, values in differing.items()]
    return [*names, "", *aligned([["option", *letters], *rows], num_left=1 + len(letters))]


def _differing_options(evaluations: "Sequence[Evaluation]", store: Store) -> dict[str, list[Any]]:
    """Return the options in which the evaluations' students differ, with the value of each; none where one is gone."""
    known = store.artifacts()
    by_digest = {artifact.record.digest: artifact for artifact in known}
    names = {artifact.record.digest: artifact.record.fingerprint[:12] for artifact in known}
    stages = {stage.name: stage for stage in available_stages()}
    rows = []
    for evaluation in evaluations:
        student = by_digest.get(evaluation.artifact.record.inputs["student"].digest)
        if student is None or student.record.stage not in stages:
            log.info("options are not compared: %s has no record of student %s", store, evaluation.student[:12])
            return {}
        rows.append(make_row(student, stages[student.record.stage], names, ()))
    return {name: [row.options.get(name) for row in rows] for name in differing_options(rows)}


def _as_json(first: "Evaluation", second: "Evaluation", metrics: Sequence[ComparedMetric]) -> dict[str, Any]:
    return {
        "second": _describe(second),
        "metrics": [asdict(metric) for metric in metrics],
        "not_compared": _left_out(first, second, metrics),
    }


def _left_out(first: "Evaluation", second: "Evaluation", metrics: Sequence[ComparedMetric]) -> list[str]:
    return sorted(first.metrics.keys() & second.metrics.keys() - {metric.name for metric in metrics})


def _describe(evaluation: "Evaluation") -> dict[str, str]:
    return {
        "evaluation": evaluation.artifact.record.fingerprint,
        "checkpoint": evaluation.checkpoint,
        "student": evaluation.student,
    }


def _check_distinct(evaluations: "Sequence[Evaluation]") -> None:
    seen: dict[tuple[str, str], str] = {}
    for letter, each in zip(LETTERS, evaluations, strict=False):
        key = (each.artifact.record.digest, each.checkpoint)
        if key in seen:
            names = [checkpoint["name"] for checkpoint in each.report["checkpoints"]]
            raise ProtoRKDError(
                f"{seen[key]} and {letter} must name two evaluations; both name {each.name}. Name another student, or "
                f"another checkpoint with @; this evaluation has {', '.join(names)}."
            )
        seen[key] = letter
