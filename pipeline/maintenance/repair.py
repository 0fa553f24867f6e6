"""Repair damaged artifacts: set bad files aside, and make their content anew where possible."""

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_schemas.artifact_record import JOURNAL_NAME, LOG_FOLDER, RECORD_NAME, ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_errors, fsync
from pipeline.options.declaration import flag_of, from_json, line_of
from pipeline.plan import intact, plan_stage
from pipeline.runner import run_stage
from pipeline.stage import AnyStage, Context
from pipeline.store.locks import locked
from pipeline.store.store import SET_ASIDE_NAME, Artifact, Store


@dataclasses.dataclass(frozen=True)
class Repair:
    """The outcome of repairing an artifact.

    Args:
        set_aside: New place of each bad file, by path.
        problem: Why the artifact is still not whole, or "".
    """

    set_aside: dict[str, Path]
    problem: str


def repair(artifact: Artifact, problems: Mapping[str, str], *, context: Context, trust_code: bool = False) -> Repair:
    """Set an artifact's bad files aside, and make their content anew.

    Logs and journals cannot be made anew: the record is written without them.

    Args:
        artifact: The damaged artifact.
        problems: What is wrong, by path, as `artifact_problems` returns it.
        context: The store, and the stages that can be run again.
        trust_code: Whether the user, not the record, lets code that comes with an input run. Without it, an artifact
            that needs such code stays as it is.
    """
    record = artifact.record
    problem = "" if trust_code else untrusted(record, problems, context)
    if problem:
        return Repair({}, problem)
    with locked(context.store, record.stage, record.fingerprint):
        moved = set_aside(context.store, artifact, problems)
        if RECORD_NAME in problems:
            return Repair(moved, f"Run {record.stage} again with the same options: what is whole is taken over.")
        _forget_logs(artifact, problems)
        if intact(context.store, record.stage, record.fingerprint)[0] is not None:
            return Repair(moved, "")
    return Repair(moved, _make_anew(record, context))


def untrusted(record: ArtifactRecord, problems: Mapping[str, str], context: Context) -> str:
    """Say why an artifact waits for the user's trust: it is made anew by code that only its record trusts; else "".

    Args:
        record: Record of the damaged artifact.
        problems: What is wrong, by path.
        context: The stages that can be run again.
    """
    stage = context.stages.get(record.stage)
    if stage is None or record.request is None or not problems.keys() & {file.path for file in record.digested_files}:
        return ""
    asked = {**record.params, **record.request.inputs}
    for field in (*dataclasses.fields(stage.params), *dataclasses.fields(stage.inputs)):
        if line_of(field).runs_code and asked.get(field.name):
            sources = ", ".join(f"{name} {entry.location}" for name, entry in record.inputs.items())
            return (
                f"{flag_of(field)} must be given again where a record asks for code to be run; it was not, and nothing "
                f"was changed. Read the code among its inputs ({sources}), and run verify --repair {flag_of(field)} "
                f"{record.fingerprint[:12]}."
            )
    return ""


def set_record_aside(folder: Path, *, store: Store) -> Path:
    """Set an unreadable record aside; the rest of its folder serves the next run of the stage."""
    return _move(store, folder, RECORD_NAME)


def set_aside(store: Store, artifact: Artifact, problems: Mapping[str, str]) -> dict[str, Path]:
    """Move an artifact's bad files out of it; return where each lies now."""
    there = [path for path in problems if (artifact.path / path).is_file()]
    return {path: _move(store, artifact.path, path) for path in there}


def _move(store: Store, folder: Path, path: str) -> Path:
    """Move a file out of its artifact to a unique name: nothing that a user may want is deleted."""
    target = store.root / SET_ASIDE_NAME / f"{folder.parent.name}-{folder.name[:12]}-{uuid.uuid4().hex[:6]}" / path
    with disk_errors(target):
        target.parent.mkdir(parents=True)
        (folder / path).rename(target)
        fsync((folder / path).parent)
        fsync(target.parent)
    return target


def _forget_logs(artifact: Artifact, problems: Mapping[str, str]) -> None:
    record = artifact.record
    lost = [path for path in problems if path == JOURNAL_NAME or path.startswith(f"{LOG_FOLDER}/")]
    if lost:
        files = tuple(file for file in record.files if file.path not in lost)
        dataclasses.replace(record, files=files).write(artifact.path)


def _make_anew(record: ArtifactRecord, context: Context) -> str:
    """Ask for the same artifact again; return why the result is not the same, or ""."""
    stage = context.stages.get(record.stage)
    if stage is None:
        return "Run again what it was made for, such as evaluate: it makes this anew."
    if record.request is None or record.version != stage.version:
        return f"It is of an earlier version of {record.stage}, and cannot be made anew. Run {record.stage} again."
    try:
        with contextlib.chdir(record.request.folder):
            params, inputs = from_json(stage.params, record.params), _inputs(stage, record)
            plan = plan_stage(stage, params=params, inputs=inputs, runtime=stage.runtime(), context=context)
            if plan.fingerprint != record.fingerprint:
                return (
                    "Its inputs are no longer what they were, so nothing was run. Bring them back, or run "
                    f"{stage.name} again with those of today."
                )
            outcome = run_stage(stage, params=params, inputs=inputs, runtime=stage.runtime(), context=context)
    except (ProtoRKDError, OSError) as error:
        return f"It could not be made anew: {error}"
    made = outcome.artifact.record
    if made.digest != record.digest:
        return f"It was made anew, with other bytes: digest {made.digest[:12]} in place of {record.digest[:12]}."
    return ""


def _inputs(stage: AnyStage, record: ArtifactRecord) -> Any:
    """Rebuild the inputs as the user gave them; an artifact that was left to be the newest is now named."""
    assert record.request is not None
    inputs = dict(record.request.inputs)
    for name, entry in record.inputs.items():
        if name in inputs and inputs[name] is None and (Path(entry.location) / RECORD_NAME).is_file():
            inputs[name] = entry.location
    return from_json(stage.inputs, inputs)
