"""What a call of a stage would do: find its artifact whole, or say why it has to be made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from pipeline.difference import Difference, nearest
from pipeline.fingerprint import fingerprint
from pipeline.remote.errors import RemoteError
from pipeline.sources import hashed_inputs
from pipeline.stage import AnyStage, Context, Input
from pipeline.store.store import Artifact, Store


@dataclass(frozen=True)
class Settled:
    """A request as it is hashed.

    Args:
        params: Parameters, none of which depends on machine or store any more.
        sources: Inputs that the stage has identified, as its dataclass.
        inputs: The same inputs, under the keys that are hashed and recorded.
        fingerprint: Hash of parameters and inputs.
        files: What was seen of the files that were hashed, by path, as `FileDigests.noted` says.
    """

    params: Any
    sources: Any
    inputs: Mapping[str, Input[Any]]
    fingerprint: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Plan:
    """What a call of a stage would do.

    Args:
        fingerprint: Fingerprint of the request.
        params: Parameters as they are hashed and recorded.
        sources: Inputs that the stage has identified, as its dataclass.
        inputs: The same inputs, under the keys that are hashed and recorded.
        artifact: The intact artifact that answers the request, or None.
        damage: What is wrong with files that keep an artifact from being intact, by path.
        earlier: Record of the nearest earlier run, or None.
        differences: How the request differs from that run.
        files: What was seen of the files that were hashed, by path, as `FileDigests.noted` says.
    """

    fingerprint: str
    params: Any
    sources: Any
    inputs: Mapping[str, Input[Any]]
    artifact: Artifact | None
    damage: Mapping[str, str]
    earlier: ArtifactRecord | None
    differences: list[Difference]
    files: Mapping[str, bytes]

    def reason(self) -> str:
        """Say in one line why the stage runs."""
        if self.damage:
            path, problem = next(iter(self.damage.items()))
            return f"{len(self.damage)} file(s) of the artifact are not whole, first {path}: {problem}"
        if self.earlier is None:
            return "nothing like it in the store"
        changed = "; ".join(map(str, self.differences)) or "nothing differs"
        return f"against {self.earlier.fingerprint[:12]}: {changed}"

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``why --json`` prints, without the stage."""
        runs = self.artifact is None
        return {
            "would_run": runs,
            "fingerprint": self.fingerprint,
            "reason": self.reason() if runs else "unchanged",
            "path": None if self.artifact is None else str(self.artifact.path),
            "earlier": None if self.earlier is None else self.earlier.fingerprint,
            "differences": [asdict(each) for each in self.differences],
        }


def settle(stage: AnyStage, *, params: Any, inputs: Any, runtime: Any, context: Context) -> Settled:
    """Identify the inputs, settle the parameters, and hash both: what every way of asking for a stage goes through.

    Raises:
        ProtoRKDError: an input is missing or cannot be read.
    """
    with context.file_digests.noted() as files:
        sources = stage.identify(inputs, params, context)
    if stage.settle is not None:
        params = stage.settle(params, inputs, sources, runtime, context)
    hashed = hashed_inputs(sources)
    digests = {name: entry.digest for name, entry in hashed.items()}
    return Settled(params, sources, hashed, fingerprint(stage.name, stage.version, params, digests), files)


def plan_stage(stage: AnyStage, *, params: Any, inputs: Any, runtime: Any, context: Context) -> Plan:
    """Find out, without doing any work, whether a stage would run and why.

    Raises:
        ProtoRKDError: an input is missing or cannot be read.
    """
    asked = settle(stage, params=params, inputs=inputs, runtime=runtime, context=context)
    request = asked.fingerprint, asked.params, asked.sources, asked.inputs
    joins = context.join and stage.joinable
    artifact, damage = intact(context.store, stage.name, asked.fingerprint, fetch=not joins)
    if artifact is not None:
        return Plan(*request, artifact, {}, None, [], asked.files)
    records = [artifact.record for artifact in context.store.artifacts(stage.name)]
    near = None if damage else nearest(records, version=stage.version, params=asked.params, inputs=asked.inputs)
    earlier, differing = near or (None, [])
    return Plan(*request, None, damage, earlier, differing, asked.files)


def changed_inputs(
    stage: AnyStage, plan: Plan, *, params: Any, inputs: Any, context: Context, touched: bool = False
) -> list[str]:
    """Identify the inputs again, and name those that are no longer what they were when the run was planned.

    Args:
        stage: Declaration of the stage.
        plan: Plan of the run.
        params: Parameters as they were asked for.
        inputs: Where the inputs lie.
        context: Context of the run.
        touched: Whether to name also the files that have their bytes, but were written meanwhile: others may have
            stood there between.
    """
    before = {name: entry.digest for name, entry in plan.inputs.items()}
    try:
        with context.file_digests.noted() as files:
            sources = stage.identify(inputs, params, context)
    except ProtoRKDError as error:
        return [f"one that cannot be read ({error})"]
    now = {name: entry.digest for name, entry in hashed_inputs(sources).items()}
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if touched:
        changed += [path for path, seen in files.items() if plan.files.get(path, seen) != seen]
    return changed


def intact(store: Store, stage: str, request: str, *, fetch: bool = True) -> tuple[Artifact | None, Mapping[str, str]]:
    """Open an artifact whose files have the sizes that its record says; else say what is wrong with what is there.

    Args:
        store: Store of the artifact.
        stage: Name of the stage.
        request: Fingerprint of the request.
        fetch: Whether files that are elsewhere are brought here; otherwise their record counts for them.

    Raises:
        RemoteError: the store lies elsewhere, and cannot say.
        NewerRecordError: a newer protorkd made it.
    """
    try:
        if not fetch and (there := store.look_up(stage, request)) and not there.path.exists():
            return there, {}
        artifact = store.find(stage, request)
    except (RemoteError, NewerRecordError):
        raise  # it may be whole there, or for others
    except ProtoRKDError:
        return None, {RECORD_NAME: "cannot be read"}
    if artifact is None:
        return None, {}
    damage = artifact.record.problems(artifact.path, read=False)
    return (None, damage) if damage else (artifact, {})
