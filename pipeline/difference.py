"""Which field makes a stage run again: this request against the nearest earlier one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from pipeline.fingerprint import canonical
from pipeline.stage import Input

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One field that differs, with its old and new value as text."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


def differences(
    record: ArtifactRecord, *, version: int, params: Any, inputs: Mapping[str, Input[Any]]
) -> list[Difference]:
    """List what differs between an earlier run and a request.

    Args:
        record: Record of the earlier run.
        version: Current version of the stage.
        params: Parameters asked for.
        inputs: Inputs as they are now.
    """
    differing = []
    if record.version != version:
        differing.append(Difference("stage version", str(record.version), str(version)))
    wanted = canonical(params)
    for name in sorted(wanted.keys() | record.params.keys()):
        old, new = record.params.get(name, _ABSENT), wanted.get(name, _ABSENT)
        if old != new:
            differing.append(Difference(f"--{name.replace('_', '-')}", _show(old), _show(new)))
    for name in sorted(inputs.keys() | record.inputs.keys()):
        differing += _input_differences(name, record, inputs)
    return differing


def nearest(
    records: list[ArtifactRecord], *, version: int, params: Any, inputs: Mapping[str, Input[Any]]
) -> tuple[ArtifactRecord, list[Difference]] | None:
    """Find the earlier run that differs in the fewest fields; among equals the newest, which is the last."""
    best = None
    for record in records:
        differing = differences(record, version=version, params=params, inputs=inputs)
        if best is None or len(differing) <= len(best[1]):
            best = (record, differing)
    return best


def _input_differences(name: str, record: ArtifactRecord, inputs: Mapping[str, Input[Any]]) -> list[Difference]:
    old, new = record.inputs.get(name), inputs.get(name)
    if old is None or new is None:
        return [Difference(name, old.digest[:12] if old else _ABSENT, new.digest[:12] if new else _ABSENT)]
    if old.digest == new.digest:
        return []
    parts = [
        Difference(f"{name} {part}", old.parts.get(part, _ABSENT)[:12], new.parts.get(part, _ABSENT)[:12])
        for part in sorted(old.parts.keys() | new.parts.keys())
        if old.parts.get(part) != new.parts.get(part)
    ]
    return parts or [Difference(f"{name} ({new.location})", old.digest[:12], new.digest[:12])]


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "(none)"
    return "(none)" if value is None else str(value)
