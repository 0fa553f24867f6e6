"""What a call of a stage would do: find its artifact whole, or say why it has to be made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import ProtoRKDError
from pipeline.difference import Difference, nearest
from pipeline.fingerprint import fingerprint
from pipeline.remote.errors import RemoteError
from pipeline.stage import Context, Input, Stage
from pipeline.store.store import Artifact, Store


@dataclass(frozen=True)
class Settled:
    """A request as it is hashed.

    Args:
        params: none of which depends on machine or store any more.
        inputs: identified by content.
        fingerprint: of both.
    """

    params: Any
    inputs: Mapping[str, Input]
    fingerprint: str


@dataclass(frozen=True)
class Plan:
    """What a call of a stage would do.

    Args:
        fingerprint: of the request.
        params: as they are hashed and recorded.
        inputs: identified by content.
        artifact: the intact artifact that answers the request, or None.
        damage: files that keep an artifact from being intact, with what is wrong.
        earlier: the nearest earlier run, or None.
        differences: what differs from it.
    """

    fingerprint: str
    params: Any
    inputs: Mapping[str, Input]
    artifact: Artifact | None
    damage: Mapping[str, str]
    earlier: ArtifactRecord | None
    differences: list[Difference]

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


def settle(stage: Stage[Any, Any, Any], *, params: Any, inputs: Any, runtime: Any, context: Context) -> Settled:
    """Identify the inputs, settle the parameters, and hash both: what every way of asking for a stage goes through.

    Raises:
        ProtoRKDError: an input is missing or cannot be read.
    """
    found = stage.identify(inputs, params, context)
    if stage.settle is not None:
        params = stage.settle(params, found, runtime, context)
    digests = {name: entry.digest for name, entry in found.items()}
    return Settled(params, found, fingerprint(stage.name, stage.version, params, digests))


def plan_stage(stage: Stage[Any, Any, Any], *, params: Any, inputs: Any, runtime: Any, context: Context) -> Plan:
    """Find out, without doing any work, whether a stage would run and why.

    Raises:
        ProtoRKDError: an input is missing or cannot be read.
    """
    asked = settle(stage, params=params, inputs=inputs, runtime=runtime, context=context)
    request = asked.fingerprint, asked.params, asked.inputs
    artifact, damage = intact(context.store, stage.name, asked.fingerprint)
    if artifact is not None:
        return Plan(*request, artifact, {}, None, [])
    records = [artifact.record for artifact in context.store.artifacts(stage.name)]
    near = None if damage else nearest(records, version=stage.version, params=asked.params, inputs=asked.inputs)
    earlier, differing = near or (None, [])
    return Plan(*request, None, damage, earlier, differing)


def intact(store: Store, stage: str, request: str) -> tuple[Artifact | None, Mapping[str, str]]:
    """Open an artifact whose files have the sizes that its record says; else say what is wrong with what is there.

    Raises:
        RemoteError: the store lies elsewhere, and cannot say.
    """
    try:
        artifact = store.find(stage, request)
    except RemoteError:
        raise  # it may be whole there
    except ProtoRKDError:
        return None, {RECORD_NAME: "cannot be read"}
    if artifact is None:
        return None, {}
    damage = artifact.record.problems(artifact.path, read=False)
    return (None, damage) if damage else (artifact, {})
