"""Claim a request: find its artifact made, or open its draft, alone or together with others who ask for the same."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from pipeline.log import log
from pipeline.peers import one_of_many
from pipeline.plan import Plan, intact
from pipeline.stage import AnyStage, Context
from pipeline.store.draft import Draft, is_joint, open_draft, open_joint, publish
from pipeline.store.locks import locked, locked_together
from pipeline.store.store import Artifact, Store

Changed = Callable[[], Sequence[str]]


def joins_others(stage: AnyStage, join: bool | None, *, force: bool) -> bool:
    """Tell whether a run shares its work with others that ask for the same.

    Args:
        stage: Declaration of the stage.
        join: What the user says; None leaves it to the environment.
        force: Whether the artifact is made anew.

    Raises:
        ProtoRKDError: the user asks for both.
    """
    if join and force:
        raise ProtoRKDError("--join must go without --force: each of the processes would begin anew. Leave one out.")
    return stage.joinable and not force and (one_of_many() if join is None else join)


def claim(
    stage: AnyStage, plan: Plan, changed: Changed, context: Context, held: ExitStack
) -> tuple[Artifact | Draft | None, Callable[[str], None]]:
    """Find the artifact made, or open its draft under its lock, which ``held`` keeps; and how to tell what it uses.

    Neither, and no lock, where inputs have changed while another process held the lock: the plan no longer holds.

    Args:
        stage: Declaration of the stage.
        plan: Plan of the run.
        changed: Names the inputs that have changed since.
        context: Context of the run. Where it joins, or others have begun the artifact together, the draft is shared.
        held: Keeps the lock.

    Raises:
        ProtoRKDError: the store cannot be written.
    """
    if plan.artifact is not None and not context.force:
        return plan.artifact, context.use
    store, level = context.store, logging.DEBUG if stage.quiet else logging.INFO
    reason = "forced" if context.force else plan.reason()
    log.log(level, "%s: making %s (%s)", stage.name, plan.fingerprint[:12], reason)
    store.check_writable()
    work = store, stage.name, plan.fingerprint
    joins = stage.joinable and not context.force and (context.join or is_joint(*work))
    lock = partial(locked_together, prepare=partial(_put_in_order, *work)) if joins else locked
    hold = held.enter_context(lock(*work, uses=[entry.digest for entry in plan.inputs.values()]))
    if hold.waited and (names := changed()):
        log.log(level, "%s: planned anew, because %s changed meanwhile", stage.name, ", ".join(names))
        held.close()
        return None, context.use
    if not context.force:
        artifact, _ = intact(*work, fetch=not joins)
        if artifact is None and not joins:
            artifact = _publish_sealed(*work)
        if artifact is not None:
            return artifact, hold.use
    if joins:
        joint = held.enter_context(open_joint(*work))
        return Draft(joint.workspace, resumed=True, joint=joint), hold.use
    draft = open_draft(*work, fresh=context.force)
    if draft.resumed:
        log.log(level, "%s: going on from what an earlier run left", stage.name)
    return draft, hold.use


def _put_in_order(store: Store, stage: str, request: str) -> None:
    """Make a draft of what dead processes left, before several share it."""
    artifact, _ = intact(store, stage, request, fetch=False)
    if artifact is None and _publish_sealed(store, stage, request) is None:
        open_draft(store, stage, request)


def _publish_sealed(store: Store, stage: str, request: str) -> Artifact | None:
    """Finish a commit that was killed between its record and its rename."""
    draft_path = store.draft_folder(stage, request)
    if not (draft_path / RECORD_NAME).is_file():
        return None
    try:
        record = ArtifactRecord.read(draft_path)
    except NewerRecordError:
        raise
    except ProtoRKDError:
        return None
    if record.problems(draft_path, read=True):
        (draft_path / RECORD_NAME).unlink()
        return None
    publish(store, draft_path, record)
    return store.find(stage, request)
