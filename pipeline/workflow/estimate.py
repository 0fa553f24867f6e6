"""Estimate what a run would do and take, from its inputs and earlier runs. Writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from pipeline.difference import nearest
from pipeline.fingerprint import canonical
from pipeline.plan import Plan, plan_stage
from pipeline.sizes import human_size, human_time
from pipeline.stage import AnyStage, Context, Work
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import MEMO_NAME, Store
from pipeline.terminal import echo


@dataclass(frozen=True)
class Forecast:
    """What a run would do and take.

    Args:
        stage: Name of the stage.
        plan: Whether it would run, and why.
        forced: Whether it would run in any case.
        goes_on: Whether an earlier run has left something to go on from.
        work: The work to do; None where the stage does not say.
        seconds: Approximate time it would take; None where no earlier run tells.
        gone_by: Earlier run that the time is based on.
        size: Approximate bytes that it would write; None where that is not known.
    """

    stage: str
    plan: Plan
    forced: bool
    goes_on: bool
    work: Work | None = None
    seconds: float | None = None
    gone_by: ArtifactRecord | None = None
    size: int | None = None

    @property
    def runs(self) -> bool:
        """Whether there is anything to do."""
        return self.forced or self.plan.artifact is None

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--dry-run --json`` prints."""
        estimate = {
            "counts": dict(self.work.counts) if self.work else {},
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "gone_by": self.gone_by.fingerprint if self.gone_by else None,
            "bytes": self.size,
        }
        return {
            "stage": self.stage,
            "status": "dry run",
            **self.plan.as_json(),
            "would_run": self.runs,
            **({"estimate": estimate} if self.runs else {}),
        }

    def lines(self) -> list[str]:
        """Return the same as lines for people."""
        if not self.runs:
            assert self.plan.artifact is not None
            return [f"{self.stage} would not run: unchanged, {self.plan.artifact.path} has it."]
        reason = "forced" if self.forced else self.plan.reason()
        lines = [f"{self.stage} would run as {self.plan.fingerprint[:12]}: {reason}"]
        if self.goes_on:
            lines.append("  goes on from what an earlier run left")
        if self.work:
            lines.append(
                "  " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.work.counts.items())
            )
        lines.append(f"  time: {self._time()}")
        lines.append(f"  disk: {'not known before it runs' if self.size is None else 'about ' + human_size(self.size)}")
        return lines

    def _time(self) -> str:
        if self.seconds is None or self.gone_by is None:
            like = [name.replace("_", "-") for name in self.work.like] if self.work else []
            return f"no earlier run{' with the same ' + ', '.join(like) if like else ''} to go by"
        earlier, paced_by = self.gone_by, self.work.paced_by if self.work else ""
        took = f"took {human_time(earlier.seconds)}"
        behind = f" for {earlier.counts[paced_by]:,} {paced_by.replace('_', ' ')}" if paced_by else ""
        return f"about {human_time(self.seconds)}, as {earlier.fingerprint[:12]} {took}{behind}"


def forecast(
    stage: AnyStage,
    *,
    params: Any,
    inputs: Any,
    runtime: Any,
    store: Store,
    stages: Iterable[AnyStage],
    force: bool = False,
) -> Forecast:
    """Say what a run would do and take. Nothing is written, not even digests of files that were hashed.

    Args:
        stage: Declaration of the stage.
        params: What changes the output.
        inputs: Where the inputs lie.
        runtime: What changes only how fast or where it runs.
        store: Store where the artifact would go.
        stages: Stages that the stage may ask for an artifact of.
        force: Whether it would run though the artifact is there.

    Raises:
        ProtoRKDError: an input is missing or cannot be read, or an option is a mistake.
    """
    digests = FileDigests(store.root / MEMO_NAME, remembers=False)
    context = Context(store, digests, force=force, stages={each.name: each for each in stages})
    plan = plan_stage(stage, params=params, inputs=inputs, runtime=runtime, context=context)
    goes_on = not force and store.draft_folder(stage.name, plan.fingerprint).is_dir()
    if plan.artifact is not None and not force:
        return Forecast(stage.name, plan, forced=False, goes_on=False)
    stage.check_options(params=params, inputs=inputs, runtime=runtime)
    work = stage.work(plan.params, plan.sources, context) if stage.work else None
    records = [artifact.record for artifact in store.artifacts(stage.name)]
    gone_by = _earlier(records, work, stage, plan.params)
    seconds = None if gone_by is None else _seconds(gone_by, work)
    size = work.size if work and work.size is not None else gone_by.size if gone_by else None
    return Forecast(stage.name, plan, force, goes_on, work, seconds, gone_by, size)


def likely(stage: AnyStage, *, params: Any, store: Store) -> ArtifactRecord | None:
    """Return the earlier run whose parameters are most like those of one whose inputs are not made yet, if any tells.

    Args:
        stage: Declaration of the stage.
        params: What changes the output.
        store: Store of the earlier runs.
    """
    records = [artifact.record for artifact in store.artifacts(stage.name)]
    timed = [record for record in records if record.seconds > 0 and record.version == stage.version]
    near = nearest(timed, version=stage.version, params=params, inputs={})
    return None if near is None else near[0]


@dataclass(frozen=True)
class Price:
    """What several runs would take together.

    Args:
        num_stages: Number of stages.
        num_runs: Number of those that would run.
        num_untold: Number of those whose time no earlier run tells.
        seconds: Approximate time of the others.
        size: Approximate bytes that those would write whose size is known.
    """

    num_stages: int = 0
    num_runs: int = 0
    num_untold: int = 0
    seconds: float = 0.0
    size: int = 0

    def plus(self, *, seconds: float | None, size: int | None) -> "Price":
        """Add a stage that would run; its time or size may be unknown."""
        return Price(
            num_stages=self.num_stages + 1,
            num_runs=self.num_runs + 1,
            num_untold=self.num_untold + (seconds is None),
            seconds=self.seconds + (seconds or 0.0),
            size=self.size + (size or 0),
        )

    def plus_unchanged(self) -> "Price":
        """Add a stage that would not run."""
        return replace(self, num_stages=self.num_stages + 1)

    def line(self) -> str:
        """Return the sum for people."""
        said = f"all: {self.num_runs} of {self.num_stages} stages would run"
        if self.num_runs > self.num_untold:
            said += f", about {human_time(self.seconds)} and {human_size(self.size)}"
        if self.num_untold:
            said += f"; no earlier run tells the time of {self.num_untold} of them"
        return said


def show_forecast(answer: Forecast, *, as_json: bool) -> None:
    """Print a forecast, for people or as JSON."""
    import json

    echo(json.dumps(answer.as_json(), ensure_ascii=False) if as_json else "\n".join(answer.lines()))


def _earlier(records: list[ArtifactRecord], work: Work | None, stage: AnyStage, params: Any) -> ArtifactRecord | None:
    """Return the largest run with the same pace, where start-up counts least; among equals the newest."""
    like, paced_by = (work.like, work.paced_by) if work else ((), "")
    asked = canonical(params)
    fitting = [
        record
        for record in records
        if record.seconds > 0
        and record.version == stage.version
        and (not paced_by or record.counts.get(paced_by, 0) > 0)
        and all(record.params.get(name) == asked.get(name) for name in like)
    ]
    return max(reversed(fitting), key=lambda record: record.counts.get(paced_by, 0), default=None)


def _seconds(record: ArtifactRecord, work: Work | None) -> float:
    if work is None or not work.paced_by:
        return record.seconds
    units: float = record.counts[work.paced_by]
    return record.seconds * work.counts[work.paced_by] / units
