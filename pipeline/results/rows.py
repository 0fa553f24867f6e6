"""Rows of results: each artifact that another stage measures, with its options and all that was measured of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import canonical
from pipeline.log import log
from pipeline.options.declaration import line_of
from pipeline.options.values import options_of
from pipeline.results.figure import Figure
from pipeline.stage import AnyStage, Overview
from pipeline.store.store import Artifact, Store

VERSION = "version"
SECONDS = "seconds"


@dataclass(frozen=True)
class ResultRow:
    """An artifact beside its figures, or several that are shown as one.

    Args:
        artifacts: The artifact; of a group, its artifacts, the first made first.
        options: Value of each option by its name, with ``-``, and of each input what it is called by.
        figures: Figures by the name of their metric.
        facts: What it took and was made from, such as ``seconds``; None where that is unknown.
        evaluations: Artifacts that the figures are from, the newest last.
        told: Names of the options that are shown where none differs.
    """

    artifacts: tuple[Artifact, ...]
    options: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluations: tuple[Artifact, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Short fingerprint, or how many artifacts it stands for; "" for none."""
        if len(self.artifacts) < 2:
            return "".join(artifact.record.fingerprint[:12] for artifact in self.artifacts)
        return f"{len(self.artifacts)} runs"


def result_rows(store: Store, stages: Sequence[AnyStage]) -> list[ResultRow]:
    """Read every artifact that another stage measures, the first made first; what cannot be read is logged.

    Args:
        store: Store to read; nothing is written to it.
        stages: Declarations of all stages.
    """
    by_name = {stage.name: stage for stage in stages}
    known, unreadable = store.survey()
    for path, error in unreadable.items():
        if path.parent.name in by_name:
            log.warning("%s %s is left out: %s", path.parent.name, path.name[:12], error)
    names = {artifact.record.digest: artifact.record.fingerprint[:12] for artifact in known}
    evaluations = evaluations_by_digest(known, stages)
    measured = {measured_stage(stage) for stage in stages}
    rows = []
    for artifact in sorted(known, key=lambda each: (each.record.created, each.record.fingerprint)):
        if artifact.record.stage in measured:
            stage = by_name[artifact.record.stage]
            measuring = evaluations.get(artifact.record.digest, [])
            evaluated = [figures_of(each, by_name[each.record.stage], store) for each in reversed(measuring)]
            row = make_row(artifact, stage, names, [*evaluated, figures_of(artifact, stage, store)])
            rows.append(replace(row, evaluations=tuple(measuring)))
    return rows


def make_row(
    artifact: Artifact, stage: AnyStage, names: Mapping[str, str], figures: Sequence[Mapping[str, Figure]]
) -> ResultRow:
    """Put an artifact's options beside its figures.

    Args:
        artifact: Artifact of the row.
        stage: Its stage.
        names: What other artifacts are called by, by digest.
        figures: Figures from several places; of a metric that stands in more than one, the first counts.
    """
    record, overview = artifact.record, stage.overview or Overview()
    counts = {overview.count: record.counts.get(overview.count)} if overview.count else {}
    return ResultRow(
        artifacts=(artifact,),
        options=options_shown(artifact, stage, names),
        figures=first_of_each(figures),
        facts={SECONDS: record.seconds or None, **counts},
        told=tuple(name.replace("_", "-") for name in overview.options),
    )


def first_of_each(figures: Iterable[Mapping[str, Figure]]) -> dict[str, Figure]:
    """Put figures from several places together; of a metric that stands in more than one, the first counts."""
    found: dict[str, Figure] = {}
    for each in figures:
        found |= {name: figure for name, figure in each.items() if name not in found}
    return found


def measured_stage(stage: AnyStage) -> str:
    """Return the stage whose artifacts a stage measures; "" for one that measures none."""
    if stage.overview is None or not stage.overview.measures:
        return ""
    return line_of(options_of(stage)[stage.overview.measures].field).artifact or ""


def evaluations_by_digest(known: Iterable[Artifact], stages: Iterable[AnyStage]) -> dict[str, list[Artifact]]:
    """List the artifacts that measure each artifact, by its digest, in the order of ``known``."""
    inputs = {stage.name: stage.overview.measures for stage in stages if stage.overview and stage.overview.measures}
    found: dict[str, list[Artifact]] = {}
    for artifact in known:
        entry = artifact.record.inputs.get(inputs.get(artifact.record.stage, ""))
        if entry is not None:
            found.setdefault(entry.digest, []).append(artifact)
    return found


def options_shown(artifact: Artifact, stage: AnyStage, names: Mapping[str, str]) -> dict[str, Any]:
    """Return an artifact's options, with the defaults of those that its record leaves out, and its inputs.

    Args:
        artifact: Artifact whose record says what was asked for.
        stage: Its stage.
        names: What other artifacts are called by, by digest.
    """
    record = artifact.record
    defaults = {
        name: canonical(each.field.default)
        for name, each in options_of(stage).items()
        if each.kind == "params" and not each.is_required
    }
    options = {name.replace("_", "-"): value for name, value in {**defaults, **record.params}.items()}
    for name, entry in record.inputs.items():
        key = name.replace("_", "-")
        options[f"{key} files" if key in options else key] = names.get(entry.digest, entry.digest[:12])
    return options | {VERSION: record.version}


def figures_of(artifact: Artifact, stage: AnyStage, store: Store) -> dict[str, Figure]:
    """Return the figures of one artifact; where its files cannot be read, those of its record, and a warning.

    Args:
        artifact: Artifact of a stage that measures, or that notes measures of its own.
        stage: Its stage.
        store: Store that its files are read from.
    """
    plain = {name: Figure(value) for name, value in artifact.record.metrics.items()}
    if stage.overview is None or stage.overview.figures is None:
        return plain
    try:
        return plain | dict(stage.overview.figures(artifact, lambda path: store.read_file(artifact, path)))
    except (ProtoRKDError, OSError) as error:
        log.warning("%s: figures are shown as far as its record has them: %s", artifact.name, error)
        return plain


def flat(row: ResultRow) -> dict[str, Any]:
    """Return a row as one dict of plain values: what it is, its options, figures, and what it took.

    An interval stands behind its metric as ``<metric>/low`` and ``<metric>/high``, a deviation as ``<metric>/std``.
    """
    record = row.artifacts[-1].record
    values: dict[str, Any] = {
        "fingerprint": record.fingerprint if len(row.artifacts) == 1 else None,
        "path": str(row.artifacts[-1].path) if len(row.artifacts) == 1 else None,
        "created": record.created,
        "runs": len(row.artifacts),
        "evaluations": [each.record.fingerprint for each in row.evaluations],
        **row.options,
        **row.facts,
    }
    for name, figure in row.figures.items():
        values[name] = figure.value
        ends = {"low": figure.low, "high": figure.high, "std": figure.std}
        values |= {f"{name}/{end}": value for end, value in ends.items() if value is not None}
    return values


def as_json(rows: Sequence[ResultRow]) -> str:
    """Write rows as a JSON object with ``runs``, a list of flat objects."""
    return json.dumps({"runs": [flat(row) for row in rows]}, ensure_ascii=False)


def mean_fact(values: Sequence[Any]) -> Any:
    """Return the mean of numbers; None where one is unknown, and of other things what all have in common."""
    if all(isinstance(value, int | float) for value in values):
        return values[0] if len(set(values)) == 1 else mean(values)
    return values[0] if all(value == values[0] for value in values) else None
