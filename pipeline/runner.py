"""Runs a stage once for each distinct request: reuse, draft, resume, commit."""

import contextlib
import dataclasses
import logging
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from typing import Any, NoReturn

from data_schemas.artifact_record import ArtifactRecord, InputRecord, Request
from data_schemas.errors import ProtoRKDError, StopRequestedError
from data_schemas.files import write_atomic
from pipeline.claim import Changed, claim
from pipeline.fingerprint import canonical
from pipeline.log import log
from pipeline.options.config_file import CONFIG_NAME, config_text
from pipeline.options.declaration import as_json
from pipeline.peers import SingleProcess, barrier, fail_together, num_processes
from pipeline.plan import Plan, changed_inputs, plan_stage, settle
from pipeline.signals import stop_is_asked
from pipeline.stage import AnyStage, Context, Input
from pipeline.store.draft import Draft, commit
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import MEMO_NAME, Artifact, Store

_LIBRARIES = ("protorkd", "torch", "torchvision", "sentence-transformers", "zarr", "pyarrow", "numpy")


@dataclass(frozen=True)
class StageOutcome:
    """The outcome of a call of a stage.

    Args:
        artifact: The artifact, made now or before.
        status: "created" or "unchanged".
        seconds: How long the call took.
    """

    artifact: Artifact
    status: str
    seconds: float

    def require_whole(self) -> None:
        """Refuse what an earlier run made unless every byte is as it was written; this one's were hashed just now.

        Raises:
            ProtoRKDError: a file is missing or altered.
        """
        self.artifact.require_whole(read=self.status == "unchanged")

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        record = self.artifact.record
        return {
            "stage": record.stage,
            "fingerprint": record.fingerprint,
            "digest": record.digest,
            "path": str(self.artifact.path),
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "counts": record.counts,
            **({"metrics": record.metrics} if record.metrics else {}),
        }


def context_of(store: Store, *, force: bool = False, join: bool = False, stages: Iterable[AnyStage] = ()) -> Context:
    """Put together what a stage is given beside its options."""
    by_name = {stage.name: stage for stage in stages}
    digests = FileDigests(store.root / MEMO_NAME)
    return Context(store=store, file_digests=digests, force=force, join=join, stages=by_name)


def make_artifact(
    stage_name: str,
    *,
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    runtime: Mapping[str, Any],
    context: Context,
) -> Artifact:
    """Find, or make, the artifact of another stage that a stage needs on its way; options left out are defaults."""
    stage = context.stages[stage_name]
    _check_begin(stage)
    outcome = _run_met(
        stage,
        params=stage.params(**params),
        inputs=stage.inputs(**inputs),
        runtime=stage.runtime(**runtime),
        context=dataclasses.replace(context, force=False, peers=SingleProcess()),
    )
    context.use(outcome.artifact.record.digest)
    return context.store.fetch(outcome.artifact)


def run_stage(stage: AnyStage, *, params: Any, inputs: Any, runtime: Any, context: Context) -> StageOutcome:
    """Make the artifact that is asked for, or find it made.

    Args:
        stage: Declaration of the stage.
        params: What changes the output.
        inputs: Where the inputs lie.
        runtime: What changes only how fast or where it runs.
        context: The store; ``force`` makes the artifact anew though it is there.

    Raises:
        StopRequestedError: a stop was asked for before the stage began.
        ProtoRKDError: something that the user can mend. Whatever was whole by then serves the next run.
    """
    _check_begin(stage)
    peers = SingleProcess() if num_processes() == 1 or stage.distributed is None else stage.distributed.join()
    outcome = _run_met(
        stage, params=params, inputs=inputs, runtime=runtime, context=dataclasses.replace(context, peers=peers)
    )
    peers.leave()
    return outcome


def _check_begin(stage: AnyStage) -> None:
    if stop_is_asked():  # too late for the stage before, which is whole
        raise StopRequestedError(
            f"Asked to stop, and did, before {stage.name} began. Run the same command again: what was whole is kept."
        )


def _run_met(stage: AnyStage, *, params: Any, inputs: Any, runtime: Any, context: Context) -> StageOutcome:
    """Run a stage by the processes that have met for it."""
    peers = context.peers
    if stage.prepare is not None:
        inputs = stage.prepare(inputs, params, runtime, context)
    context = dataclasses.replace(context, store=context.store.choosing_once())
    outcome = _run_by_all(stage, params, inputs, runtime, context)
    if outcome.status == "unchanged" and peers.is_first and not stage.quiet:
        context.store.note_asked(outcome.artifact, at=_now())
    if stage.deliver is not None and peers.is_first:
        stage.deliver(context.store.fetch(outcome.artifact), runtime)
    return outcome


def run_within(stage: AnyStage, *, params: Any, inputs: Any, runtime: Any, context: Context) -> StageOutcome:
    """Make or find an artifact inside the run of another stage, by the processes that have met for that one.

    All of them call this, in one order. A stage that fails together is run by all; any other by the first alone, while
    the others wait.

    Args:
        stage: Declaration of the stage.
        params: What changes the output.
        inputs: Where the inputs lie.
        runtime: What changes only how fast or where it runs.
        context: Context of the outer stage, with its peers.

    Raises:
        ProtoRKDError: as `run_stage`; the same in all processes, which may go on together.
    """
    if _fails_together(stage):
        outcome = _run_by_all(stage, params, inputs, runtime, context)
    else:
        made = None
        with fail_together(context.peers):
            if context.peers.is_first:
                alone = dataclasses.replace(context, peers=SingleProcess())
                made = _run_by_all(stage, params, inputs, runtime, alone)
        outcome = _shared(stage, made, context)
    context.use(outcome.artifact.record.digest)
    return outcome


def _run_by_all(stage: AnyStage, params: Any, inputs: Any, runtime: Any, context: Context) -> StageOutcome:
    """Lead, or follow the first process; where a stage does not fail together, the process that fails ends."""
    outcome = None
    with fail_together(context.peers) if _fails_together(stage) else contextlib.nullcontext():
        if context.peers.is_first:
            outcome = _lead(stage, params, inputs, runtime, context)
        else:
            _follow(stage, params, inputs, runtime, context)
    return _shared(stage, outcome, context)


def _shared(stage: AnyStage, outcome: StageOutcome | None, context: Context) -> StageOutcome:
    """Tell all processes what the first one came to, once it is committed."""
    shared: StageOutcome = context.peers.broadcast(outcome)
    with fail_together(context.peers):
        is_here = context.peers.is_first or context.store.find(stage.name, shared.artifact.record.fingerprint)
        if not is_here:
            raise ProtoRKDError(f"{context.store} must be one folder for all processes of {stage.name}; got another.")
    return shared


def _lead(stage: AnyStage, params: Any, inputs: Any, runtime: Any, context: Context) -> StageOutcome:
    """Plan, lock, run and commit; the others hear what they have to do."""
    start, peers = time.monotonic(), context.peers
    with contextlib.ExitStack() as held:
        with fail_together(peers):
            claimed = None
            while claimed is None:
                plan = plan_stage(stage, params=params, inputs=inputs, runtime=runtime, context=context)
                if plan.artifact is None or context.force:
                    stage.check_options(params=params, inputs=inputs, runtime=runtime)
                changed = partial(changed_inputs, stage, plan, params=params, inputs=inputs, context=context)
                claimed, use = claim(stage, plan, changed, context, held)
        peers.broadcast(_Order(plan.fingerprint, run=isinstance(claimed, Draft)))
        if isinstance(claimed, Artifact):
            context.use(claimed.record.digest)
            return _unchanged(stage, context.store.share(claimed), plan.inputs, start)
        request = Request(os.getcwd(), as_json(inputs)) if stage.name in context.stages else None  # noqa: PTH109
        check_inputs = partial(_check_untouched, stage, plan, partial(changed, touched=True))
        holding = dataclasses.replace(context, use=use, check_inputs=check_inputs)
        try:
            record = _make(
                stage, inputs, runtime, plan=plan, context=holding, draft=claimed, changed=changed, request=request
            )
        except Exception as error:  # of a joint run that others have ended, and tidied up around this process
            if claimed.joint is None or not context.store.is_made(stage.name, plan.fingerprint):
                raise
            log.debug("nothing more to do: %r", error)
            return _made_by_others(stage, plan, context, start)
        artifact = Artifact(path=context.store.folder(stage.name, plan.fingerprint), record=record)
        artifact = artifact if claimed.joint else context.store.share(artifact, force=context.force)
        record = artifact.record
        context.use(record.digest)
    seconds = time.monotonic() - start
    log.log(_level(stage), "%s: made %s, digest %s, in %.1f s", stage.name, artifact.path, record.digest[:12], seconds)
    return StageOutcome(artifact=artifact, status="created", seconds=seconds)


def _follow(stage: AnyStage, params: Any, inputs: Any, runtime: Any, context: Context) -> None:
    """Do the first process's bidding; of its draft only the state is written here."""
    peers = context.peers
    barrier(peers)  # the first plans
    order: _Order = peers.broadcast(None)
    if not order.run:
        return
    with fail_together(peers):
        asked = settle(stage, params=params, inputs=inputs, runtime=runtime, context=context)
        if asked.fingerprint != order.fingerprint:
            raise ProtoRKDError(
                f"Every process of {stage.name} must see the same options and inputs; this one's differ from the "
                "first's. Start all with one command, on folders that all of them reach."
            )
    draft = Draft(context.store.draft_folder(stage.name, order.fingerprint), resumed=False)
    stage.run(asked.params, asked.sources, draft, runtime, context)


@dataclass(frozen=True)
class _Order:
    """What the first process tells the others: which artifact, and whether it has to be made."""

    fingerprint: str
    run: bool


def _make(
    stage: AnyStage,
    inputs: Any,
    runtime: Any,
    *,
    plan: Plan,
    context: Context,
    draft: Draft,
    changed: Changed,
    request: Request | None,
) -> ArtifactRecord:
    start = time.monotonic()
    try:
        barrier(context.peers)  # the others look whether they see the same inputs
        result = stage.run(plan.params, plan.sources, draft, runtime, context)
    except ProtoRKDError:
        draft.discard_if_empty()
        raise
    if names := changed():
        _refuse_changed(stage, names, plan, draft, context.store)
    if request is not None:
        text = config_text(stage, {"params": plan.params, "inputs": inputs, "runtime": runtime})
        write_atomic(draft.logs / CONFIG_NAME, text.encode(errors="backslashreplace"))
    record = ArtifactRecord(
        stage=stage.name,
        version=stage.version,
        fingerprint=plan.fingerprint,
        digest="",
        params=canonical(plan.params),
        inputs={
            name: InputRecord(digest=entry.digest, location=entry.location, parts=dict(entry.parts))
            for name, entry in plan.inputs.items()
        },
        files=(),
        counts=dict(result.counts),
        metrics=dict(result.metrics),
        uses=result.uses,
        created=_now(),
        environment={**_environment(), **result.environment},
        request=request,
        seconds=0.0 if draft.resumed else round(time.monotonic() - start, 3),
    )
    return commit(context.store, draft, record)


def _refuse_changed(stage: AnyStage, names: Sequence[str], plan: Plan, draft: Draft, store: Store) -> NoReturn:
    """Put a draft where no run goes on from it: what it holds may be of other inputs than its fingerprint says."""
    if draft.joint is not None:
        draft.joint.discard()
    aside = store.set_aside(draft.path)
    raise ProtoRKDError(
        f"The inputs of {stage.name} must stay as they are while it runs; got others by now: {_places(names, plan)}. "
        f"Run the same command again; what was made is set aside as {aside}."
    )


def _check_untouched(stage: AnyStage, plan: Plan, changed: Changed) -> None:
    if names := changed():
        raise ProtoRKDError(
            f"The inputs of {stage.name} must stay as they are while it reads them; written meanwhile: "
            f"{_places(names, plan)}. Run the same command again."
        )


def _places(names: Sequence[str], plan: Plan) -> str:
    return ", ".join(f"{name} {plan.inputs[name].location}".strip() if name in plan.inputs else name for name in names)


def _made_by_others(stage: AnyStage, plan: Plan, context: Context, start: float) -> StageOutcome:
    """Take the artifact that another process of a joint run has committed; its files are not brought here."""
    artifact = context.store.look_up(stage.name, plan.fingerprint)
    if artifact is None:
        raise ProtoRKDError(f"{context.store} must keep what was made; it was removed. Run the same command again.")
    context.use(artifact.record.digest)
    log.log(_level(stage), "%s: made together with others, %s", stage.name, artifact.path)
    return StageOutcome(artifact=artifact, status="unchanged", seconds=time.monotonic() - start)


def _unchanged(stage: AnyStage, artifact: Artifact, inputs: Mapping[str, Input[Any]], start: float) -> StageOutcome:
    """Take the artifact as it is; where an input has moved, the record learns its new place, if it may be written."""
    record = artifact.record
    moved = {
        name: dataclasses.replace(record.inputs[name], location=entry.location)
        for name, entry in inputs.items()
        if record.inputs[name].location != entry.location
    }
    if moved and artifact.path.exists():
        record = dataclasses.replace(record, inputs={**record.inputs, **moved})
        with contextlib.suppress(ProtoRKDError):
            record.write(artifact.path)
        artifact = dataclasses.replace(artifact, record=record)
    log.log(_level(stage), "%s: unchanged, using %s", record.stage, artifact.path)
    return StageOutcome(artifact=artifact, status="unchanged", seconds=time.monotonic() - start)


def _fails_together(stage: AnyStage) -> bool:
    return stage.distributed is not None and stage.distributed.fails_together


def _level(stage: AnyStage) -> int:
    return logging.DEBUG if stage.quiet else logging.INFO


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _environment() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {"python": platform.python_version(), "platform": sys.platform, **versions}
