"""The records of the artifacts in an object store, ``<stage>/<fingerprint>.json``, cached here by their tags."""

import contextlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from data_schemas.files import FileEntry, read_json, write_json
from pipeline.fingerprint import FINGERPRINT_LENGTH, hash_json
from pipeline.remote.errors import RemoteError, UnmodifiedError
from pipeline.remote.object_store import ObjectInfo, Objects, in_parallel

_RECORD = re.compile(rf"([0-9a-f]{{{FINGERPRINT_LENGTH}}})\.json")
_STAGE = re.compile(r"[a-z][a-z0-9-]*")
_COPY_LENGTH = 16
_ASKED_SUFFIX = ".asked"
_ASKED = re.compile(rf"([0-9a-f]{{{FINGERPRINT_LENGTH}}}){re.escape(_ASKED_SUFFIX)}")


@dataclass(frozen=True)
class RemoteRecord:
    """The record of an artifact as the object store holds it.

    Args:
        record: Content of the record.
        seen: Object that held the record when it was read.
    """

    record: ArtifactRecord
    seen: ObjectInfo


class RemoteRecords:
    """Reads and writes records; a record is read again only when its tag has changed.

    Args:
        objects: The store.
        folder: Folder of the local copies.
    """

    def __init__(self, objects: Objects, folder: Path) -> None:
        self._objects = objects
        self._folder = folder

    def known(self, stage: str, fingerprint: str) -> RemoteRecord | None:
        """Return what was last seen of a record, without any request."""
        try:
            values = read_json(self._path(stage, fingerprint))
            seen = ObjectInfo(**{**values["seen"], "modified": datetime.fromisoformat(values["seen"]["modified"])})
            return RemoteRecord(_parse(values["record"], stage, fingerprint, self._objects), seen)
        except (ProtoRKDError, KeyError, TypeError, ValueError):
            return None

    def read(self, stage: str, fingerprint: str) -> RemoteRecord | None:
        """Ask for a record: one request, which carries it only if it is new; None where there is none.

        Raises:
            ProtoRKDError: the store does not answer, or the record is damaged, or a newer protorkd wrote it.
        """
        known = self.known(stage, fingerprint)
        try:
            answer = self._objects.read(record_key(stage, fingerprint), tag=known.seen.tag if known else None)
        except UnmodifiedError:
            return known
        if answer is None:
            self.forget(stage, fingerprint)
            return None
        return self.remember(stage, fingerprint, answer[0], answer[1])

    def survey(self, stage: str | None) -> tuple[list[RemoteRecord], dict[tuple[str, str], ProtoRKDError]]:
        """List the records of one stage or of all, and the unreadable ones: one request for each stage and new record.

        Raises:
            RemoteError: the store does not answer.
        """
        stages = [stage] if stage else [name for name in self._objects.list_folder()[0] if _STAGE.fullmatch(name)]
        folders = dict(zip(stages, in_parallel(self._objects.list_folder, stages), strict=True))
        listed, noted = (
            [
                (name, match[1], file)
                for name, (_, objects) in folders.items()
                for file in objects
                if (match := pattern.fullmatch(file.key.rpartition("/")[2]))
            ]
            for pattern in (_RECORD, _ASKED)
        )
        in_parallel(self._read_asked, noted)
        self._forget_all_but({(name, fingerprint) for name, fingerprint, _ in listed}, stages)
        for name, fingerprint in self.asked(stage).keys() - {(name, fingerprint) for name, fingerprint, _ in noted}:
            self._asked_path(name, fingerprint).unlink(missing_ok=True)
        records, broken = [], {}
        for (name, fingerprint, _), record in zip(listed, in_parallel(self._listed, listed), strict=True):
            if isinstance(record, ProtoRKDError):
                broken[name, fingerprint] = record
            elif record is not None:
                records.append(record)
        return records, broken

    def asked(self, stage: str | None) -> dict[tuple[str, str], str]:
        """Return when artifacts were last asked for, as the last survey saw it, by stage and fingerprint."""
        asked = {}
        for path in self._folder.glob(f"{stage or '*'}/*{_ASKED_SUFFIX}"):
            with contextlib.suppress(ProtoRKDError, KeyError, TypeError):  # removed meanwhile, or torn
                asked[path.parent.name, path.name.removesuffix(_ASKED_SUFFIX)] = str(read_json(path)["at"])
        return asked

    def note_asked(self, stage: str, fingerprint: str, *, at: str) -> None:
        """Note in the object store when an artifact was asked for, by one request that nobody waits for.

        Raises:
            RemoteError: the store does not answer, or refuses.
        """
        seen = self._objects.write_at_once(asked_key(stage, fingerprint), at.encode())
        write_json(self._asked_path(stage, fingerprint), {"at": at, "tag": seen.tag})

    def remember(self, stage: str, fingerprint: str, data: bytes, seen: ObjectInfo) -> RemoteRecord:
        """Keep a local copy of a record that was read or written.

        Raises:
            ProtoRKDError: it is not the record of that artifact.
        """
        try:
            values = json.loads(data)
        except ValueError as error:
            raise _damaged(self._objects.place(record_key(stage, fingerprint)), str(error)) from error
        record = RemoteRecord(_parse(dict(values), stage, fingerprint, self._objects), seen)
        facts = {"key": seen.key, "size": seen.size, "tag": seen.tag, "version": seen.version}
        facts["modified"] = seen.modified.isoformat()
        write_json(self._path(stage, fingerprint), {"record": values, "seen": facts})
        return record

    def forget(self, stage: str, fingerprint: str) -> None:
        """Remove the local copy of a record."""
        self._path(stage, fingerprint).unlink(missing_ok=True)

    def _listed(self, item: tuple[str, str, ObjectInfo]) -> RemoteRecord | ProtoRKDError | None:
        stage, fingerprint, seen = item
        known = self.known(stage, fingerprint)
        if known is not None and known.seen.tag == seen.tag is not None:
            return known
        try:
            return self.read(stage, fingerprint)
        except (RecordDamagedError, NewerRecordError) as error:
            return error

    def _read_asked(self, item: tuple[str, str, ObjectInfo]) -> None:
        """Learn when an artifact was last asked for, by a request only where that is new."""
        stage, fingerprint, seen = item
        path = self._asked_path(stage, fingerprint)
        with contextlib.suppress(ProtoRKDError, KeyError, TypeError):
            if read_json(path)["tag"] == seen.tag is not None:
                return
        answer = self._objects.read(asked_key(stage, fingerprint))
        if answer is not None:
            write_json(path, {"at": answer[0].decode(errors="replace"), "tag": answer[1].tag})

    def _asked_path(self, stage: str, fingerprint: str) -> Path:
        return self._folder / stage / f"{fingerprint}{_ASKED_SUFFIX}"

    def _forget_all_but(self, there: set[tuple[str, str]], stages: list[str]) -> None:
        for stage in stages:
            for path in (self._folder / stage).glob("*.json"):
                if (stage, path.stem) not in there:
                    path.unlink(missing_ok=True)

    def _path(self, stage: str, fingerprint: str) -> Path:
        return self._folder / stage / f"{fingerprint}.json"


class RecordDamagedError(RemoteError):
    """An object in the place of a record is not the record of that artifact."""


def record_key(stage: str, fingerprint: str) -> str:
    """Return the key of an artifact's record."""
    return f"{stage}/{fingerprint}.json"


def asked_key(stage: str, fingerprint: str) -> str:
    """Return the key of the object that says when an artifact was last asked for."""
    return f"{stage}/{fingerprint}{_ASKED_SUFFIX}"


def files_folder(record: ArtifactRecord) -> str:
    """Return the folder of an artifact's files: a separate one for each set of bytes, logs included.

    So two writers who make the same artifact at once write either the same objects with the same bytes, or different
    ones.
    """
    copy = hash_json([[file.path, file.size, file.sha256] for file in sorted(record.files, key=lambda file: file.path)])
    return f"{record.stage}/{record.fingerprint}/{copy[:_COPY_LENGTH]}"


def file_key(record: ArtifactRecord, file: FileEntry) -> str:
    """Return the key of an artifact's file."""
    return f"{files_folder(record)}/{file.path}"


def _parse(values: Any, stage: str, fingerprint: str, objects: Objects) -> ArtifactRecord:
    place = objects.place(record_key(stage, fingerprint))
    try:
        record = ArtifactRecord.from_json(dict(values), source=place)
    except NewerRecordError:
        raise
    except (ProtoRKDError, TypeError, ValueError) as error:
        raise RecordDamagedError(f"{error} Or run verify --repair on that store.") from error
    if (record.stage, record.fingerprint) != (stage, fingerprint):
        raise _damaged(place, f"it is that of {record.stage} {record.fingerprint}")
    for file in record.files:
        if not _stays_inside(file.path):
            raise _damaged(place, f"its file {file.path!r} would lie outside the artifact")
    return record


def _damaged(place: str, got: str) -> RecordDamagedError:
    return RecordDamagedError(
        f"{place} must be an artifact's record as it was written; {got}. Run verify --repair on that store."
    )


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and "/".join(parts) == path and ".." not in parts and "\\" not in path and "\0" not in path
