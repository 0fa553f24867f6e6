"""The command ``run``: plan a file of stages, price it, run it for every combination, and sum up in a table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import available_stages, json_option, print_json, quiet_option
from pipeline.commands.store_options import open_store, store_options
from pipeline.log import log, show_log
from pipeline.peers import num_processes
from pipeline.plan import plan_stage
from pipeline.results.figure import Figure
from pipeline.results.formats import as_text
from pipeline.results.rows import SECONDS, ResultRow, figures_of, first_of_each, measured_stage
from pipeline.results.table import result_table
from pipeline.runner import StageOutcome, context_of
from pipeline.sizes import human_time
from pipeline.stage import Context
from pipeline.store.store import Store
from pipeline.terminal import echo
from pipeline.workflow.estimate import Price, forecast, likely
from pipeline.workflow.graph import Ending, Failure, Node, distinct, nodes_of, run_nodes
from pipeline.workflow.run_file import read_run_file

_FIRST = "its {} runs first"


@click.command(params=[*store_options(), quiet_option(), json_option("a line for each stage, and the results,")])
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the plan, and what it would take; do nothing.")
@click.pass_context
def run(context: click.Context, *, file: Path, store: Store, quiet: bool, as_json: bool, dry_run: bool) -> None:
    """Run the stages of a file, one after the other, and over again for each combination of what it sweeps over.

    FILE is TOML or YAML: a table of options for each stage, and [sweep.STAGE] with lists of values to try. A stage
    takes the artifacts of the stages before it. What combinations share is done once, and what is done already is
    not done again, so a run that was stopped goes on by the same command.
    """
    show_log(quiet=quiet)
    if num_processes() > 1:
        raise ProtoRKDError("run must be started as one process; torchrun starts more. Start distill by it, by itself.")
    asked = read_run_file(file, stages=available_stages())
    if context.get_parameter_source("store") is not ParameterSource.COMMANDLINE and asked.store is not None:
        store = open_store(asked.store)
    combinations = nodes_of(asked)
    nodes = distinct(combinations)
    opened = context_of(store, stages=available_stages())
    if dry_run:
        _forecast_all(nodes, opened, as_json=as_json)
        return
    answers, mistakes = look_ahead(nodes, opened)
    for node, answer in answers:
        log.info("plan: %s: %s", node.name, answer)
    if mistakes:
        raise ProtoRKDError(
            f"Options of {file} must be sound before its first stage begins; {len(mistakes)} of {len(nodes)} stages "
            f"would fail. The first: {mistakes[0]}"
        )
    start = time.monotonic()
    endings = run_nodes(nodes, opened, tell=_tell_json if as_json else _tell)
    results = [_result(each, endings) for each in combinations]
    if as_json:
        seconds = round(time.monotonic() - start, 3)
        failed = sum(result["status"] == "failed" for result in results)
        print_json({"status": "failed" if failed else "done", "combinations": results, "seconds": seconds})
    elif not quiet:
        echo(as_text(result_table(result_rows(combinations, endings, opened))))
    problems = [ending.reason for ending in endings.values() if isinstance(ending, Failure)]
    if problems:
        num = sum(result["status"] == "failed" for result in results)
        raise ProtoRKDError(
            f"{num} of {len(results)} combinations must be run again, once this is mended: {problems[0]}"
        )


def look_ahead(nodes: Sequence[Node], context: Context) -> tuple[list[tuple[Node, str]], list[str]]:
    """Say of each node whether it would run and why, as far as is known before the nodes it needs have run.

    Returns:
        Each node with its answer, and the mistakes among the options of nodes that would run.
    """
    references: dict[str, str] = {}
    answers: list[tuple[Node, str]] = []
    mistakes: list[str] = []
    for node in nodes:
        waits = [needed.step.name for needed in node.needs() if needed.key not in references]
        stage, plan = node.step.stage, None
        options = node.options({**dict.fromkeys([needed.key for needed in node.needs()], ""), **references})
        try:
            if not waits:
                plan = plan_stage(stage, **options, context=context)
        except ProtoRKDError as error:
            answers.append((node, f"would fail: {error}"))
            continue
        if plan is not None and plan.artifact is not None:
            references[node.key] = plan.fingerprint
            answers.append((node, f"unchanged, {plan.artifact.path} has it"))
            continue
        try:
            stage.check_options(**options)
        except ProtoRKDError as error:
            mistakes.append(str(error))
            answers.append((node, f"would fail: {error}"))
            continue
        if plan is None:
            answers.append((node, f"would run: {_FIRST.format(waits[0])}"))
        else:
            answers.append((node, f"would run as {plan.fingerprint[:12]}: {plan.reason()}"))
    return answers, mistakes


def result_rows(
    combinations: Sequence[Sequence[Node]], endings: Mapping[str, Ending], context: Context
) -> list[ResultRow]:
    """Make a row for each combination: what was swept, the figures of all it made, and what became of it.

    Args:
        combinations: Nodes of each combination.
        endings: How each node ended, by its key.
        context: Store of the artifacts, and their stages.
    """
    known = {
        key: figures_of(ending.artifact, context.stages[ending.artifact.record.stage], context.store)
        for key, ending in endings.items()
        if isinstance(ending, StageOutcome)
    }
    return [_row(nodes, endings, known, context) for nodes in combinations]


def _row(
    nodes: Sequence[Node],
    endings: Mapping[str, Ending],
    known: Mapping[str, Mapping[str, Figure]],
    context: Context,
) -> ResultRow:
    """Sum up a combination; it is called by what its last measuring stage measured, or by the last that it made."""
    made = [ending.artifact for node in nodes if isinstance(ending := endings[node.key], StageOutcome)]
    measured = {measured_stage(stage) for stage in context.stages.values()}
    judged = [artifact for artifact in made if artifact.record.stage in measured] or made
    num_failed = sum(isinstance(endings[node.key], Failure) for node in nodes)
    return ResultRow(
        artifacts=tuple(judged[-1:]),
        options={name: value for node in nodes for name, value in node.named_sweep().items()},
        figures=first_of_each(known.get(node.key, {}) for node in reversed(nodes)),
        facts={SECONDS: judged[-1].record.seconds if judged else None, "status": "failed" if num_failed else "done"},
    )


def _result(nodes: Sequence[Node], endings: Mapping[str, Ending]) -> dict[str, Any]:
    """Sum up a combination: its artifacts, the measures of the last stage that measured, what went wrong."""
    steps: dict[str, Any] = {}
    metrics: Mapping[str, float] = {}
    reasons = []
    for node in nodes:
        ending = endings[node.key]
        if isinstance(ending, Failure):
            reasons.append(ending.reason)
            steps[node.step.name] = {"status": "failed", "reason": ending.reason}
            continue
        record = ending.artifact.record
        steps[node.step.name] = {
            "status": ending.status,
            "fingerprint": record.fingerprint,
            "path": str(ending.artifact.path),
        }
        metrics = record.metrics or metrics
    swept = {name: value for node in nodes for name, value in node.named_sweep().items()}
    status = "failed" if reasons else "done"
    return {"swept": swept, "status": status, "steps": steps, "metrics": dict(metrics), "reasons": reasons}


def _tell(node: Node, ending: Ending) -> None:
    if isinstance(ending, Failure):
        log.error("%s failed: %s", node.name, ending.reason)


def _tell_json(node: Node, ending: Ending) -> None:
    _tell(node, ending)
    said = {"step": node.step.name, "swept": dict(node.named_sweep())}
    if isinstance(ending, StageOutcome):
        print_json({**said, **ending.as_json()})
    else:
        failed = {"stage": node.step.stage.name, "status": "failed", "reason": ending.reason}
        print_json({**said, **failed, **ending.found})


def _forecast_all(nodes: Sequence[Node], context: Context, *, as_json: bool) -> None:
    """Print what each node would do and take, and all together.

    Raises:
        ProtoRKDError: an input of one of them is missing, or an option is a mistake.
    """
    references: dict[str, str] = {}
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    price = Price()
    for node in nodes:
        stage = node.step.stage
        try:
            entry, lines, price = _forecast(node, references, context, price)
        except ProtoRKDError as error:
            problems.append(str(error))
            entry = {"stage": stage.name, "would_run": True, "reason": f"would fail: {error}"}
            lines = [f"{stage.name} would fail: {error}"]
        entries.append({"step": node.step.name, "swept": dict(node.named_sweep()), **entry})
        if not as_json:
            echo("\n".join([f"{node.name}:", *(f"  {line}" for line in lines)]))
    if as_json:
        print_json({"status": "dry run", "stages": entries, "total": asdict(price)})
    else:
        echo(price.line())
    if problems:
        raise ProtoRKDError(f"{len(problems)} of {len(nodes)} stages would fail. The first: {problems[0]}")


def _forecast(
    node: Node, references: dict[str, str], context: Context, price: Price
) -> tuple[dict[str, Any], list[str], Price]:
    """Say what a node would do and take, as JSON and as lines, and add it to the price.

    A node whose sources are not made yet is priced by the earlier run that is most like it.
    """
    stage, needed = node.step.stage, node.needs()
    waits = [each.step.name for each in needed if each.key not in references]
    options = node.options({**dict.fromkeys([each.key for each in needed], ""), **references})
    if not waits:
        answer = forecast(stage, **options, store=context.store, stages=context.stages.values())
        if answer.runs:
            return answer.as_json(), answer.lines(), price.plus(seconds=answer.seconds, size=answer.size)
        references[node.key] = answer.plan.fingerprint
        return answer.as_json(), answer.lines(), price.plus_unchanged()
    stage.check_options(**options)
    reason, earlier = _FIRST.format(waits[0]), likely(stage, params=options["params"], store=context.store)
    entry = {"stage": stage.name, "would_run": True, "reason": reason}
    lines = [f"{stage.name} would run: {reason}"]
    if earlier is None:
        return entry, lines, price.plus(seconds=None, size=None)
    name = earlier.fingerprint[:12]
    lines.append(f"  time: about {human_time(earlier.seconds)}, as {name} took, the run that is most like it")
    estimate = {"seconds": round(earlier.seconds, 1), "gone_by": earlier.fingerprint, "bytes": earlier.size}
    return {**entry, "estimate": estimate}, lines, price.plus(seconds=earlier.seconds, size=earlier.size)
