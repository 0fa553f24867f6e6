"""``artifact.json``: what an artifact was made from, what it holds, and the proof that it is whole."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_schemas.errors import NewerRecordError, ProtoRKDError
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
        digest: Hash of the input's content.
        location: Where the input lay; for people and later stages, never hashed.
        parts: Digests of the input's parts (a teacher's files, say), so that a change can be named.
    """

    digest: str
    location: str = ""
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """How a run's inputs were named, so that the same run can be asked for again.

    Args:
        folder: Where the command ran; relative names start from there.
        inputs: What the user gave, by field of the stage's inputs.
    """

    folder: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class ArtifactRecord:
    """The commit record of an artifact, written last: a folder without it is not an artifact.

    Args:
        stage: Name of the stage that made the artifact.
        version: Version of that stage.
        fingerprint: Hash of what was asked for: stage, version, parameters and the inputs' digests.
        digest: Root hash over `digested_files`.
        params: Resolved parameters, defaults included.
        inputs: Each input, by name.
        files: Every file of the artifact except this record.
        counts: What was made, and what was dropped and why.
        metrics: Measures by name; empty unless the stage measures.
        uses: Digests of the artifacts that the run read besides its inputs.
        created: Time of the commit in UTC, ISO 8601; not hashed.
        environment: Library versions and device; not hashed.
        request: How the inputs were named; not hashed. None for what another stage asked for.
        seconds: How long the work took; not hashed. 0 where that is unknown, as for work spread over several runs.
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
        """The outputs: all files except logs and journal, which tell when and in how many runs they were made."""
        return tuple(
            file for file in self.files if file.path != JOURNAL_NAME and not file.path.startswith(f"{LOG_FOLDER}/")
        )

    def file(self, path: str) -> FileEntry:
        """Return the entry of a file.

        Raises:
            ProtoRKDError: the artifact has no such file.
        """
        for file in self.files:
            if file.path == path:
                return file
        raise ProtoRKDError(
            f"{self.stage} {self.fingerprint[:12]} must have a file {path}; it has none. Run {self.stage} again."
        )

    def problems(self, root: Path, *, read: bool) -> dict[str, str]:
        """Name each file under ``root`` that is not what the record says, with what is wrong.

        Args:
            root: The artifact's folder.
            read: Compare every byte; otherwise only sizes.
        """
        problems = {file.path: file.problem(root, read=read) for file in self.files}
        return {path: problem for path, problem in problems.items() if problem}

    def write(self, root: Path) -> None:
        """Write the record into the artifact's folder, as the last of its files."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        write_json(root / RECORD_NAME, {**values, "checksum": _checksum(values)})

    @classmethod
    def read(cls, root: Path) -> "ArtifactRecord":
        """Read the record of the artifact in folder ``root``.

        Raises:
            NewerRecordError: a newer protorkd wrote it.
            ProtoRKDError: there is none, or it is damaged.
        """
        path = root / RECORD_NAME
        return cls.from_json(read_json(path), source=str(path))

    @classmethod
    def from_json(cls, values: Any, *, source: str) -> "ArtifactRecord":
        """Build the record from the JSON that `write` writes.

        Args:
            values: The parsed JSON.
            source: Path of the file, for messages.

        Raises:
            NewerRecordError: a newer protorkd wrote it: its schema is newer, or it is whole and holds what is not known
                here.
            ProtoRKDError: it is damaged.
        """
        advice = "Run its stage again with the same options: what is whole is taken over."
        schema = values.get("schema_version") if isinstance(values, dict) else None
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise _newer(source, values, got=str(schema))
        try:
            checksum = values.pop("checksum")
            if checksum != _checksum(values):
                raise ProtoRKDError(f"{source} must be as it was written; its checksum does not fit. {advice}")
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtoRKDError(f"{source} must be an artifact's record; {error!r}. {advice}") from error
        asked_for = dict(values)
        try:
            files = tuple(FileEntry(**file) for file in values.pop("files"))
            inputs = {name: InputRecord(**entry) for name, entry in values.pop("inputs").items()}
            uses = tuple(values.pop("uses"))
            request = values.pop("request", None)
            asked = Request(**request) if request else None
            return cls(files=files, inputs=inputs, uses=uses, request=asked, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise _newer(source, asked_for, got=f"another ({error})") from error


def _newer(source: str, values: dict[str, Any], *, got: str) -> NewerRecordError:
    environment = values.get("environment")
    version = environment.get("protorkd") if isinstance(environment, dict) else None
    writer = f"protorkd {version}" if version else "a newer protorkd"
    return NewerRecordError(
        f"{source} must be of schema version {SCHEMA_VERSION} or older; got {got}, written by {writer}. Update "
        "protorkd and run the same command again; nothing was changed."
    )


def _checksum(values: dict[str, Any]) -> str:
    """Hash the record's own values, so that `verify` finds an altered record too."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
