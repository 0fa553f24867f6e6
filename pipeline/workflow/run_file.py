"""Read a file of several stages and values to sweep over, and check it before anything runs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.config_file import STORE, read_file, read_store
from pipeline.options.declaration import line_of
from pipeline.options.values import options_of, read_values, unknown
from pipeline.stage import AnyStage

SWEEP, STAGES, COMBINE, RUN, AS = "sweep", "stage", "combine", "run", "as"
PRODUCT, ZIP = "product", "zip"

Swept = Mapping[tuple[str, str], Any]
"""One combination: a value for each step and option that is swept over."""


@dataclass(frozen=True)
class Step:
    """One stage of a run, as the file asks for it.

    Args:
        name: Name of the step in the run: its stage's, unless the file names it.
        stage: Declaration of the stage.
        values: Options that the file gives, by name.
        sources: Earlier steps whose artifacts it takes, by the option that names them.
    """

    name: str
    stage: AnyStage
    values: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RunFile:
    """The content of a run file.

    Args:
        store: Folder of all artifacts; None where the file does not say.
        steps: Steps in their order.
        combinations: Combinations of swept values; a single empty one where nothing is swept.
    """

    store: Path | None
    steps: tuple[Step, ...]
    combinations: tuple[Swept, ...]


def read_run_file(path: Path, *, stages: Sequence[AnyStage]) -> RunFile:
    """Read a file of stages: a table for each, or a list ``[[stage]]`` where one comes twice; ``store``; ``sweep``.

    An option that names an artifact, and is not given, takes the artifact of an earlier step that makes one.

    Args:
        path: Path of the file.
        stages: All stages that a file may name.

    Raises:
        ProtoRKDError: it cannot be read, names what is not there, or gives a value that its option does not take.
    """
    parsed = read_file(path)
    store = read_store(parsed.pop(STORE), place=str(path)) if STORE in parsed else None
    sweep = parsed.pop(SWEEP, {})
    listed = parsed.pop(STAGES, None)
    by_name = {stage.name: stage for stage in stages}
    if listed is not None and parsed:
        raise ProtoRKDError(f"{path} must list its stages one way; got [[{STAGES}]] and {', '.join(parsed)}. Keep one.")
    tables = _listed(listed, path) if listed is not None else [(name, name, table) for name, table in parsed.items()]
    steps: list[Step] = []
    for name, stage_name, table in tables:
        steps.append(_step(name, stage_name, table, by_name=by_name, earlier=steps, path=path))
    if not steps:
        raise ProtoRKDError(f"{path} must have a table for each stage that is to run; got none, such as [distill].")
    return RunFile(store, tuple(steps), tuple(_combinations(sweep, steps, path)))


def _listed(listed: Any, path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    if not isinstance(listed, list) or not all(
        isinstance(each, Mapping) and isinstance(each.get(RUN), str) for each in listed
    ):
        raise ProtoRKDError(f'Each [[{STAGES}]] in {path} must say which stage it runs, as in {RUN} = "distill".')
    tables = [(each.get(AS, each[RUN]), each[RUN], {**each}) for each in listed]
    for number, (name, _, table) in enumerate(tables):
        if name in [earlier for earlier, _, _ in tables[:number]]:
            raise ProtoRKDError(
                f'{path} must name each stage once; got {name!r} twice. Tell them apart by {AS} = "...".'
            )
        for key in (RUN, AS):
            table.pop(key, None)
    return tables


def _step(
    name: str, stage_name: str, table: Any, *, by_name: Mapping[str, AnyStage], earlier: list[Step], path: Path
) -> Step:
    stage_name = stage_name.replace("_", "-")
    if stage_name not in by_name:
        raise unknown(stage_name, [*by_name, STORE, SWEEP], what="stages, store or sweep", place=str(path))
    table = {} if table is None else table  # YAML's form of an empty table
    if not isinstance(table, Mapping):
        raise ProtoRKDError(f"{stage_name} in {path} must be a table of options; got {table!r}.")
    stage = by_name[stage_name]
    values = read_values(stage, table, place=f"{path} [{name}]")
    sources = {}
    for option, known in options_of(stage).items():
        makers = [step.name for step in earlier if step.stage.name == line_of(known.field).artifact]
        if makers and option not in values:
            sources[option] = tuple(makers if known.is_repeatable else makers[-1:])
    return Step(name.replace("_", "-") if name == stage_name else name, stage, values, sources)


def _combinations(sweep: Any, steps: list[Step], path: Path) -> list[Swept]:
    if not isinstance(sweep, Mapping):
        raise ProtoRKDError(f"{SWEEP} in {path} must hold a table for each stage, such as [{SWEEP}.distill].")
    tables = dict(sweep)
    combine = tables.pop(COMBINE, PRODUCT)
    if combine not in (PRODUCT, ZIP):
        raise ProtoRKDError(f"{COMBINE} in {path} [{SWEEP}] must be {PRODUCT} or {ZIP}; got {combine!r}.")
    by_name = {step.name: step for step in steps}
    axes: dict[tuple[str, str], list[Any]] = {}
    for name, table in tables.items():
        if name not in by_name:
            raise unknown(name, [*by_name, COMBINE], what="a step of this run", place=f"{path} [{SWEEP}]")
        axes |= {(name, option): values for option, values in _axes(by_name[name], table, path).items()}
    if combine == ZIP and len({len(values) for values in axes.values()}) > 1:
        lengths = ", ".join(f"{option} {len(values)}" for (_, option), values in axes.items())
        raise ProtoRKDError(f"Lists in {path} [{SWEEP}] must be of one length for {COMBINE} = {ZIP!r}; got {lengths}.")
    rows = zip(*axes.values(), strict=True) if combine == ZIP and axes else itertools.product(*axes.values())
    return [dict(zip(axes, row, strict=True)) for row in rows]


def _axes(step: Step, table: Any, path: Path) -> dict[str, list[Any]]:
    place = f"{path} [{SWEEP}.{step.name}]"
    if not isinstance(table, Mapping):
        raise ProtoRKDError(f"{place} must be a table of options, each with a list of values; got {table!r}.")
    axes: dict[str, list[Any]] = {}
    for option, values in table.items():
        if not isinstance(values, list) or not values:
            raise ProtoRKDError(f"{option} in {place} must be a list of values to try; got {values!r}.")
        for value in values:
            for name, read in read_values(step.stage, {option: value}, place=place).items():
                axes.setdefault(name, []).append(read)
    return axes
