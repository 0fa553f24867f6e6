"""``artifact.json``: what an artifact was made from, what it holds, and the proof that it is whole."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry, read_json, write_json

RECORD_NAME = "artifact.json"
JOURNAL_NAME = "journal.jsonl"
LOG_FOLDER = "logs"
PAGE_NAME = "report.html"
"""The file of an artifact that people open."""

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class InputRecord:
    """One input, as a fingerprint saw it.

    Args:
        digest: hash of the input's content.
        location: where it lay; for people and for later stages, never hashed.
        parts: digests of its parts (a teacher's files, say), so that a change can be named.
    """

    digest: str
    location: str = ""
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """How a run's inputs were named, so that the same can be asked for again.

    Args:
        folder: where the command ran; relative names start from there.
        inputs: by field of the stage's inputs, as given.
    """

    folder: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class ArtifactRecord:
    """The commit record of an artifact, written last: a folder without it is not an artifact.

    Args:
        stage: name of the stage that made it.
        version: that stage's version.
        fingerprint: hash of what was asked for: stage, version, parameters and the inputs' digests.
        digest: root hash over `digested_files`.
        params: resolved parameters, defaults included.
        inputs: name to what it was.
        files: every file of the artifact but this record.
        counts: what was made, and what was dropped and why.
        metrics: measures, flat; empty but for stages that measure.
        uses: digests of the artifacts that it read on the way, beside its inputs.
        created: when, in UTC, ISO 8601; not hashed.
        environment: library versions and device; not hashed.
        request: how the inputs were named; not hashed. None for what a stage made on its way.
        seconds: how long the work took; not hashed. 0 where that is not known, as of what was made in several runs.
    """

    stage: str
    version: int
    fingerprint: str
    digest: str
    params: dict[str, Any]
    inputs: dict[str, InputRecord]
    files: tuple[FileEntry, ...]
    counts: dict[str, Any]
    metrics: dict[str, float]
    uses: tuple[str, ...]
    created: str
    environment: dict[str, str]
    request: Request | None = None
    seconds: float = 0.0
    schema_version: int = SCHEMA_VERSION

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digested_files(self) -> tuple[FileEntry, ...]:
        """The outputs: all files but the logs and the journal, which tell when and in how many runs they were made."""
        return tuple(
            file for file in self.files if file.path != JOURNAL_NAME and not file.path.startswith(f"{LOG_FOLDER}/")
        )

    def problems(self, root: Path, *, read: bool) -> dict[str, str]:
        """Name each file under ``root`` that is not what the record says, with what is wrong.

        Args:
            root: the artifact's folder.
            read: compare every byte; else sizes alone.
        """
        found = {file.path: file.problem(root, read=read) for file in self.files}
        return {path: problem for path, problem in found.items() if problem}

    def write(self, root: Path) -> None:
        """Write the record into the artifact's folder, as the last of its files."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        write_json(root / RECORD_NAME, {**values, "checksum": _checksum(values)})

    @classmethod
    def read(cls, root: Path) -> "ArtifactRecord":
        """Read the record of the artifact in folder ``root``.

        Raises:
            ProtoRKDError: there is none, or it is damaged, or it is of a newer kind.
        """
        path = root / RECORD_NAME
        return cls.from_json(read_json(path), source=str(path))

    @classmethod
    def from_json(cls, values: Any, *, source: str) -> "ArtifactRecord":
        """Build the record from the JSON that `write` writes.

        Args:
            values: the parsed JSON.
            source: where it lies, for messages.

        Raises:
            ProtoRKDError: it is damaged, or of a newer kind.
        """
        advice = "Run its stage again with the same options: what is whole is taken over."
        try:
            checksum = values.pop("checksum")
            if values["schema_version"] > SCHEMA_VERSION:
                raise ProtoRKDError(
                    f"{source} must be of schema version {SCHEMA_VERSION} or older; got {values['schema_version']}. "
                    "Use the newer protorkd that wrote it."
                )
            if checksum != _checksum(values):
                raise ProtoRKDError(f"{source} must be as it was written; its checksum does not fit. {advice}")
            files = tuple(FileEntry(**file) for file in values.pop("files"))
            inputs = {name: InputRecord(**entry) for name, entry in values.pop("inputs").items()}
            uses = tuple(values.pop("uses"))
            request = values.pop("request", None)
            asked = Request(**request) if request else None
            return cls(files=files, inputs=inputs, uses=uses, request=asked, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(f"{source} must be an artifact's record; {error!r}. {advice}") from error


def _checksum(values: dict[str, Any]) -> str:
    """Hash of the record's own values, so that `verify` finds an altered record too."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
