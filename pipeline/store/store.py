"""The artifact store: ``<store>/<stage>/<fingerprint>/``, each artifact absent or complete."""

import contextlib
import copy
import errno
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.files import OTHER_BYTES, FileEntry, disk_errors, fsync, write_atomic
from pipeline.log import log
from pipeline.store.shared_place import SharedFolder, SharedPlace

DRAFT_PREFIX = ".draft-"
LOCK_PREFIX = ".lock-"
HOLDER_PREFIX = ".holder-"
OLD_PREFIX = ".old-"
ASKED_PREFIX = ".asked-"  # beside an artifact: when it was last asked for, if that was after it was made
SET_ASIDE_NAME = ".set-aside"
JOINT_NAME = "joint"  # in a draft: where the processes of a joint run meet and work
MEMO_NAME = "file-digests.sqlite"

T = TypeVar("T")


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: its folder and its record."""

    path: Path
    record: ArtifactRecord

    @property
    def name(self) -> str:
        """Stage and short fingerprint, for people."""
        return f"{self.record.stage} {self.record.fingerprint[:12]}"

    def require_whole(self, paths: tuple[str, ...] = (), *, read: bool = False) -> None:
        """Refuse an artifact that is not what its record says.

        Args:
            paths: Prefixes of the files to look at; empty means all.
            read: Compare every byte; otherwise only sizes.

        Raises:
            ProtoRKDError: a file is missing or altered.
        """
        files = [file for file in self.record.files if not paths or file.path.startswith(paths)]
        for file in files:
            if problem := file.problem(self.path, read=read):
                raise self._damage(file, problem)

    def read_whole(self, path: str) -> bytes:
        """Read one of its files, and refuse other bytes than were written; the bytes returned are the ones checked.

        Args:
            path: Path relative to the artifact's folder.

        Raises:
            ProtoRKDError: the artifact has no such file, or it is missing or altered.
        """
        file = self.record.file(path)
        if problem := file.problem(self.path, read=False):
            raise self._damage(file, problem)
        try:
            data = (self.path / path).read_bytes()
        except OSError as error:  # removed since its size was looked at
            raise self._damage(file, file.problem(self.path, read=True) or OTHER_BYTES) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise self._damage(file, OTHER_BYTES)
        return data

    def _damage(self, file: FileEntry, problem: str) -> ProtoRKDError:
        # A run notices a wrong size by itself; only other damage needs --force.
        force = "" if file.problem(self.path, read=False) else " and --force"
        return ProtoRKDError(
            f"{self.path / file.path} must be as it was written; it {_verb(problem)}. "
            f"Run {self.record.stage} again with the same options{force}."
        )


class Store:
    """All artifacts below one folder.

    Args:
        root: Folder of the store; made when something is first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._chosen: dict[str, Any] | None = None

    def __str__(self) -> str:
        """Return the folder, for people."""
        return str(self.root)

    def absolute(self) -> "Store":
        """Return the same store with an absolute path."""
        return Store(self.root.absolute())

    def choosing_once(self) -> Self:
        """Return the same store, which takes for the newest of a stage what it has taken before, for one run's sake."""
        store = copy.copy(self)
        store._chosen = {}
        return store

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Return the folder of an artifact, whether or not it exists."""
        return self.root / stage / fingerprint

    def draft_folder(self, stage: str, fingerprint: str) -> Path:
        """Return the folder in which an artifact is made."""
        return self.root / stage / f"{DRAFT_PREFIX}{fingerprint}"

    def shared_place(self, stage: str, fingerprint: str, key: str) -> SharedPlace:
        """Open the place in which the processes of a joint run meet.

        Args:
            stage: Name of the stage.
            fingerprint: Fingerprint of the request.
            key: Name that only those share whose shards are interchangeable.
        """
        return SharedFolder(self.draft_folder(stage, fingerprint) / JOINT_NAME / key)

    def is_made(self, stage: str, fingerprint: str) -> bool:
        """Tell whether an artifact is committed, without looking at its files."""
        return self.look_up(stage, fingerprint) is not None

    def look_up(self, stage: str, fingerprint: str) -> Artifact | None:
        """Open an artifact by its fingerprint, without bringing its files here; None when it is absent."""
        return self.find(stage, fingerprint)

    def publish_first(self, draft_path: Path, record: ArtifactRecord, *, place: SharedPlace | None) -> bool:  # noqa: ARG002
        """Put a sealed draft in its artifact's place, unless one is there; tell whether it was put there.

        Args:
            draft_path: Folder of the draft.
            record: Its record.
            place: Place that holds the files that the draft does not hold; None where it holds all.

        Raises:
            ProtoRKDError: the folder cannot be written.
        """
        final = self.folder(record.stage, record.fingerprint)
        with disk_errors(final):
            try:
                draft_path.rename(final)  # over a folder that holds anything it fails
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            fsync(final.parent)
        return True

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """Open an artifact by its fingerprint, or return None when it is absent. Its files are not checked."""
        path = self.folder(stage, fingerprint)
        if not (path / RECORD_NAME).is_file():
            return None
        return Artifact(path=path, record=ArtifactRecord.read(path))

    def survey(self, stage: str | None = None) -> tuple[list[Artifact], dict[Path, ProtoRKDError]]:
        """Read the record of every artifact, of one stage or of all; return `artifacts` and `unreadable` ones."""
        artifacts, unreadable = [], {}
        for path in self._committed(stage):
            try:
                artifacts.append(Artifact(path=path, record=ArtifactRecord.read(path)))
            except ProtoRKDError as error:
                unreadable[path] = error
        return in_order(artifacts, self._asked(stage)), unreadable

    def artifacts(self, stage: str | None = None) -> list[Artifact]:
        """List committed artifacts, of one stage or of all, the last asked for last; unreadable ones are left out."""
        return self.survey(stage)[0]

    def unreadable(self, stage: str | None = None) -> dict[Path, ProtoRKDError]:
        """Find the artifacts, of one stage or of all, whose record is damaged."""
        return self.survey(stage)[1]

    def leftovers(self) -> Iterator[Path]:
        """Yield drafts, folders without a record and what a killed commit left behind."""
        for folder in self._stage_folders():
            for path in sorted(folder.iterdir()):
                unfinished = path.name.startswith((DRAFT_PREFIX, OLD_PREFIX))
                if path.is_dir() and (unfinished or not (path / RECORD_NAME).is_file()):
                    yield path

    def resolve(self, reference: str | None, *, stage: str, flag: str) -> Artifact:
        """Open the artifact that a user names.

        Args:
            reference: Fingerprint or its beginning, a path, or None for the newest: the one last made or asked for.
            stage: Stage whose artifact is wanted.
            flag: Option that names it, for the message.

        Raises:
            ProtoRKDError: none fits, or more than one does.
        """
        if reference is None:
            newest = self.newest(stage)
            if newest is None:
                raise ProtoRKDError(f"{self} must hold an artifact of {stage}; it has none. Run {stage} first.")
            return self.fetch(newest)
        if (path := Path(reference)).is_dir():
            artifact = Artifact(path=path, record=ArtifactRecord.read(path))
            if artifact.record.stage != stage:
                raise ProtoRKDError(
                    f"{flag} must name an artifact of {stage}; got one of {artifact.record.stage}: {path}."
                )
            return artifact
        return self.fetch(self._by_prefix(reference, stage=stage, flag=flag))

    def newest(self, stage: str) -> Artifact | None:
        """Find the artifact of a stage that was last made or asked for, without bringing its files here.

        Raises:
            ProtoRKDError: a record is damaged, so that it is not known.
        """
        return self.chosen(stage, lambda: self._newest(stage))

    def chosen(self, name: str, choose: Callable[[], T]) -> T:
        """Choose among artifacts; a store that chooses once returns what was chosen before under the same name.

        Args:
            name: Name of the choice.
            choose: Function that makes it.
        """
        if self._chosen is None:
            return choose()
        if name not in self._chosen:
            self._chosen[name] = choose()
        chosen: T = self._chosen[name]
        return chosen

    def check_writable(self) -> None:
        """Refuse a store in which the result of the coming work could not be kept.

        Raises:
            ProtoRKDError: it is shared, and its writers could not be told apart.
        """

    def fetch(self, artifact: Artifact) -> Artifact:
        """Bring an artifact's files to its path; `find` and `resolve` do so themselves, `artifacts` does not.

        Raises:
            ProtoRKDError: they cannot be brought here whole.
        """
        return artifact

    def read_file(self, artifact: Artifact, path: str) -> bytes:
        """Read one small file of an artifact, proven, without bringing the others here.

        Args:
            artifact: Artifact of this store.
            path: Path of the file relative to the artifact's folder.

        Raises:
            ProtoRKDError: the artifact has no such file, or it is not as it was written.
        """
        return artifact.read_whole(path)

    def share(self, artifact: Artifact, *, force: bool = False) -> Artifact:  # noqa: ARG002 - of shared ones
        """Put a committed artifact where others find it; return the artifact that is there in the end.

        Args:
            artifact: Artifact committed here.
            force: Whether it replaces another artifact of the same request.

        Raises:
            ProtoRKDError: it cannot be written there; it stays committed here.
        """
        return artifact

    def note_asked(self, artifact: Artifact, *, at: str) -> None:
        """Note when an artifact that exists was asked for again, which makes it the newest of its stage.

        Nothing of the artifact changes, and nothing is written where it is the newest already.

        Args:
            artifact: Artifact of this store.
            at: Time in UTC, as records have it.
        """
        try:
            known, _ = self.survey(artifact.record.stage)
            if known[-1:] and known[-1].path != artifact.path:
                self._write_asked(artifact, at)
        except ProtoRKDError as error:
            log.info("%s is not noted as the last that was asked for: %s", artifact.name, error)

    def last_asked(self, artifact: Artifact) -> str:
        """Return when an artifact was made or last asked for, whichever was later, in UTC as records have it."""
        return max(artifact.record.created, self._asked(artifact.record.stage).get(artifact.path, ""))

    def remove(self, path: Path) -> None:
        """Delete a folder of the store so that a kill half-way leaves no half artifact."""
        self._asked_path(path).unlink(missing_ok=True)
        old = path.with_name(f"{OLD_PREFIX}{path.name.lstrip('.')}")
        if path != old:
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
            fsync(path.parent)
        shutil.rmtree(old)

    def set_aside(self, path: Path) -> Path:
        """Move a folder of the store to a unique name, where nobody goes on from it; return that place."""
        fingerprint = path.name.removeprefix(DRAFT_PREFIX)
        aside = self.root / SET_ASIDE_NAME / f"{path.parent.name}-{fingerprint[:12]}-{uuid.uuid4().hex[:6]}"
        with disk_errors(aside):
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.rename(aside)
        return aside

    def _newest(self, stage: str) -> Artifact | None:
        known, damaged = self.survey(stage)
        if damaged:
            raise next(iter(damaged.values()))  # it might be the newest
        if known:
            log.info("using %s%s", known[-1].name, f", the newest of {len(known)}" if len(known) > 1 else "")
        return known[-1] if known else None

    def _write_asked(self, artifact: Artifact, at: str) -> None:
        write_atomic(self._asked_path(artifact.path), at.encode())

    def _asked(self, stage: str | None) -> dict[Path, str]:
        """Return when artifacts were last asked for, by their path, where that is noted."""
        asked = {}
        for folder in self._stage_folders():
            for path in folder.glob(f"{ASKED_PREFIX}*") if stage in (None, folder.name) else ():
                with contextlib.suppress(OSError, UnicodeDecodeError):  # removed meanwhile, or nothing of ours
                    asked[folder / path.name.removeprefix(ASKED_PREFIX)] = path.read_text()
        return asked

    def _asked_path(self, path: Path) -> Path:
        return path.with_name(f"{ASKED_PREFIX}{path.name}")

    def _by_prefix(self, prefix: str, *, stage: str, flag: str) -> Artifact:
        known, damaged = self.survey(stage)
        for path, error in damaged.items():
            if path.name.startswith(prefix):
                raise error
        fitting = [artifact for artifact in known if artifact.record.fingerprint.startswith(prefix)]
        if len(fitting) == 1:
            return fitting[0]
        listing = ", ".join(artifact.record.fingerprint[:12] for artifact in (fitting or known)) or "none"
        what = "exactly one artifact" if fitting else "an artifact"
        raise ProtoRKDError(
            f"{flag} must name {what} of {stage} in {self}, by fingerprint or path; got {prefix!r}. Known: {listing}."
        )

    def _committed(self, stage: str | None) -> Iterator[Path]:
        for folder in self._stage_folders():
            for path in sorted(folder.iterdir()) if stage in (None, folder.name) else ():
                if not path.name.startswith(".") and (path / RECORD_NAME).is_file():
                    yield path

    def _stage_folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [path for path in sorted(self.root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def in_order(artifacts: Iterable[Artifact], asked: Mapping[Path, str]) -> list[Artifact]:
    """Sort artifacts by when each was made or last asked for, whichever was later.

    Args:
        artifacts: Artifacts of a store.
        asked: When artifacts were last asked for, by their path.
    """

    def last(artifact: Artifact) -> tuple[str, str]:
        record = artifact.record
        return max(record.created, asked.get(artifact.path, "")), record.fingerprint

    return sorted(artifacts, key=last)


def _verb(problem: str) -> str:
    return "is missing" if problem == "missing" else problem
