"""Click commands made from stages: to run one, and to say whether and why it would run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data_schemas.errors import PartialError
from pipeline.claim import joins_others
from pipeline.commands.artifacts import available_stages, json_option, print_json, quiet_option
from pipeline.commands.store_options import store_options
from pipeline.log import show_log
from pipeline.options.config_file import config_text, stage_values
from pipeline.options.declaration import click_options, take
from pipeline.peers import is_first_process
from pipeline.plan import plan_stage
from pipeline.runner import StageOutcome, context_of, run_stage
from pipeline.stage import AnyStage
from pipeline.store.store import Store
from pipeline.terminal import echo
from pipeline.workflow.estimate import forecast, show_forecast

_JOIN_HELP = (
    "Share the work with all processes that run the same command on the same store, on any machines. Default: if "
    "torchrun, a SLURM array or an indexed job of Kubernetes has started several."
)


def stage_command(stage: AnyStage) -> click.Command:
    """Make a stage's subcommand from its declaration."""

    def run(
        *,
        store: Store,
        force: bool,
        as_json: bool,
        quiet: bool,
        dry_run: bool,
        show_config: bool,
        join: bool | None = None,
        **values: Any,
    ) -> None:
        show_log(quiet=quiet or not is_first_process())
        filled = _fill(stage, values)
        options = _options(stage, {**values, **filled})
        joins = joins_others(stage, join, force=force)
        if stage.distributed is None and not joins and not is_first_process():
            return
        if (show_config or dry_run) and not is_first_process():
            return
        if show_config:
            echo(config_text(stage, options, store=store, origins=_origins(stage, filled)), nl=False)
            return
        if dry_run:
            show_forecast(
                forecast(stage, **options, store=store, stages=available_stages(), force=force), as_json=as_json
            )
            return
        context = context_of(store, force=force, join=joins, stages=available_stages())
        try:
            outcome = run_stage(stage, **options, context=context)
        except PartialError as error:
            if as_json and is_first_process():
                print_json({"stage": stage.name, "status": "failed", **error.found})
            raise
        if not is_first_process():
            return
        if as_json:
            print_json(outcome.as_json())
        elif not quiet:
            show_outcome(outcome, page=stage.page)

    flags = [
        click.Option(["--force"], is_flag=True, help="Run again though the artifact is there."),
        click.Option(["--dry-run"], is_flag=True, help="Say what would be done, and what it would take; do nothing."),
        click.Option(["--show-config"], is_flag=True, help="Print all options as TOML, and where each comes from."),
    ]
    if stage.joinable:
        flags.append(click.Option(["--join/--no-join"], default=None, help=_JOIN_HELP))
    return _command(
        stage, run, [*store_options(), config_option(stage), *flags, quiet_option(), json_option("the outcome")]
    )


def why_command(stage: AnyStage) -> click.Command:
    """Make the command that says, without running it, whether a stage would run and because of which field."""

    def why(store: Store, as_json: bool, **values: Any) -> None:
        options = _options(stage, {**values, **_fill(stage, values)})
        plan = plan_stage(stage, **options, context=context_of(store, stages=available_stages()))
        if as_json:
            print_json({"stage": stage.name, **plan.as_json()})
        elif plan.artifact is not None:
            echo(f"{stage.name} would not run: unchanged, {plan.artifact.path} has it.")
        else:
            echo(f"{stage.name} would run as {plan.fingerprint[:12]}: {plan.reason()}")

    return _command(stage, why, [*store_options(), config_option(stage), json_option("the answer")])


def config_option(stage: AnyStage) -> click.Option:
    """Make ``--config``, which is read before the other options and gives their defaults."""

    def read(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
        if path is not None and not context.resilient_parsing:
            context.default_map = stage_values(path, stage, stages=context.obj or ())

    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=read,
        metavar="FILE",
        help="Take options from a TOML or YAML file; those of the command line count for more.",
    )


def show_outcome(outcome: StageOutcome, *, page: str = "") -> None:
    """Print what a stage made, for people, and which of its files to open."""
    record = outcome.artifact.record
    for name, value in record.counts.items():
        echo(f"  {name.replace('_', ' '):<32} {_brief(value)}")
    for name, value in record.metrics.items():
        echo(f"  {name:<48} {value:8.2f}")
    echo(f"{record.stage} {outcome.status}: {outcome.artifact.path}")
    if page:
        echo(f"open {outcome.artifact.path / page}")


def _command(stage: AnyStage, callback: Callable[..., None], common: list[click.Option]) -> click.Command:
    own = [option for kind in (stage.inputs, stage.params, stage.runtime) for option in click_options(kind)]
    return click.Command(stage.name, callback=callback, params=[*own, *common], help=stage.summary)


def _origins(stage: AnyStage, filled: Mapping[str, Any]) -> dict[str, str]:
    """Say where each option of the current command came from, with what a preset has filled in."""
    words = {
        ParameterSource.COMMANDLINE: "command line",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT_MAP: "file",
        ParameterSource.DEFAULT: "default",
    }
    named = {name: words[source] for name, source in _sources().items() if source in words}
    if stage.presets is None or not filled:
        return named
    return named | dict.fromkeys(filled, f"preset {filled[stage.presets.option]}")


def _fill(stage: AnyStage, values: Mapping[str, Any]) -> dict[str, Any]:
    """Let a preset of the stage fill in what was left out of the current command."""
    if stage.presets is None:
        return {}
    sources = _sources()
    return stage.presets.fill(
        {name: value for name, value in values.items() if sources.get(name) != ParameterSource.DEFAULT}
    )


def _sources() -> dict[str, ParameterSource | None]:
    context = click.get_current_context()
    return {name: context.get_parameter_source(name) for name in context.params}


def _options(stage: AnyStage, values: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {"params": stage.params, "inputs": stage.inputs, "runtime": stage.runtime}
    return {name: take(kind, dict(values)) for name, kind in kinds.items()}


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
