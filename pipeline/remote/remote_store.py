"""A store in an object store, with a local store in front: artifacts are fetched on demand, and uploaded when made."""

import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from data_schemas.files import OTHER_BYTES, FileEntry, disk_errors, fsync, fsync_all, write_atomic
from pipeline.fingerprint import FINGERPRINT_LENGTH, hash_json
from pipeline.log import log
from pipeline.remote.conditional_writes import check_conditional_writes
from pipeline.remote.errors import ObjectDamagedError, RemoteError
from pipeline.remote.object_store import Objects, in_parallel
from pipeline.remote.records import RemoteRecord, RemoteRecords, asked_key, file_key, files_folder, record_key
from pipeline.remote.shared_prefix import SharedPrefix
from pipeline.store.shared_place import SharedPlace
from pipeline.store.store import JOINT_NAME, SET_ASIDE_NAME, Artifact, Store, in_order

REMOTE_NAME = ".remote"  # hidden, so that the store does not take it for a stage
FETCH_NAME = ".fetch"
ABANDONED = timedelta(days=1)  # older files without a record do not belong to a running upload
_TRUSTED = ABANDONED / 2  # a running upload sends older files again, before others take them for abandoned
_CONFIRMED_S = 600.0
FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}")


class RemoteStore(Store):
    """Artifacts below a URL, each absent or complete, and the local store in which all work goes on.

    An artifact is uploaded by its files first and its record last, by a request that fails if a record exists. A second
    writer takes the artifact that is there.

    Args:
        url: URL such as ``s3://bucket/prefix``.
        root: Folder of the local store: drafts, locks, and copies of what was asked for.
        single_writer: Whether nobody else writes there; otherwise the store is checked for whether it tells writers
            apart.
    """

    def __init__(self, url: str, root: Path, *, single_writer: bool = False) -> None:
        super().__init__(root.absolute())
        self.objects = Objects(url)
        # One folder for each place: the same root may serve several, and servers may have buckets of one name.
        self._memory = self.root / REMOTE_NAME / _place_id(self.objects.url)
        self.records = RemoteRecords(self.objects, self._memory)
        self._single_writer = single_writer
        self._known_digests: dict[Path, str] = {}
        self._confirmed: dict[str, float] = {}  # digests of artifacts in the object store, and when they were seen

    def __str__(self) -> str:
        """Return the URL, for people."""
        return self.objects.url

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """Open an artifact that is whole here, or else fetch it; None when it is in neither place.

        Raises:
            ProtoRKDError: it is only here, and its record is damaged.
            RemoteError: it is not here, and the object store cannot say whether it is there.
        """
        local, damage = self._here(stage, fingerprint)
        if local is not None and not local.record.problems(local.path, read=False):
            return local
        remote = self.records.read(stage, fingerprint)
        if remote is not None:
            return self.fetch(Artifact(self.folder(stage, fingerprint), remote.record))
        if damage is not None:
            raise damage
        return local

    def shared_place(self, stage: str, fingerprint: str, key: str) -> SharedPrefix:
        """Open the place in the object store in which the processes of a joint run meet.

        Raises:
            ProtoRKDError: the store is one that cannot tell writers apart.
        """
        if self._single_writer:
            raise ProtoRKDError(
                "--join must go without --single-writer, for its processes are several writers. Pass --no-join, or use "
                "a store that refuses to create an object that exists."
            )
        return SharedPrefix(self.objects, f"{stage}/{fingerprint}/{JOINT_NAME}-{key}")

    def look_up(self, stage: str, fingerprint: str) -> Artifact | None:
        """Open an artifact that is there by its record alone."""
        remote = self.records.read(stage, fingerprint)
        return None if remote is None else Artifact(self.folder(stage, fingerprint), remote.record)

    def publish_first(self, draft_path: Path, record: ArtifactRecord, *, place: SharedPlace | None) -> bool:
        """Upload what the draft holds, copy within the object store what it does not, then create the record."""
        started = time.monotonic()
        self._share_sources(record)

        def put(file: FileEntry) -> None:
            if (draft_path / file.path).is_file():
                self.objects.upload(file_key(record, file), file, draft_path)
            elif isinstance(place, SharedPrefix):
                self.objects.copy(place.file_key(file), file_key(record, file))

        in_parallel(put, record.files)
        data, key = (draft_path / RECORD_NAME).read_bytes(), record_key(record.stage, record.fingerprint)
        written = self.objects.create(key, data)
        if written is None:
            return False
        self.records.remember(record.stage, record.fingerprint, data, written)
        self._tell("put together", Artifact(draft_path, record).name, record.files, started)
        return True

    def survey(self, stage: str | None = None) -> tuple[list[Artifact], dict[Path, ProtoRKDError]]:
        """Read the records here and there; the remote one counts where both places hold one with different bytes."""
        here, unreadable = super().survey(stage)
        remote, broken = self.records.survey(stage)
        by_path = {artifact.path: artifact for artifact in here}
        for each in remote:
            path = self.folder(each.record.stage, each.record.fingerprint)
            if path not in by_path or by_path[path].record.digest != each.record.digest:
                by_path[path] = Artifact(path, each.record)
            if not isinstance(unreadable.get(path), NewerRecordError):  # a fetch would overwrite that
                unreadable.pop(path, None)
        unreadable |= {self.folder(*name): error for name, error in broken.items()}
        artifacts = [artifact for path, artifact in by_path.items() if path not in unreadable]
        return in_order(artifacts, self._asked(stage)), unreadable

    def fetch(self, artifact: Artifact) -> Artifact:
        """Bring an artifact's files here: whole ones stay, the others are read and compared with the record.

        A killed fetch is resumed; what is not complete is not an artifact.
        """
        record = artifact.record
        if artifact.path != self.folder(record.stage, record.fingerprint):
            return artifact  # named by its path, it lies outside the store
        local = self._whole_here(record)
        if local is not None:
            return local
        scratch = self.root / FETCH_NAME / f"{record.stage}-{record.fingerprint}"
        with disk_errors(scratch):
            scratch.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(scratch.with_name(f"{scratch.name}.lock")):
                return self._whole_here(record) or self._fetch(artifact, scratch)

    def read_file(self, artifact: Artifact, path: str) -> bytes:
        """Read one small file of an artifact: of the copy that is here, or else by one request."""
        record = artifact.record
        if artifact.path != self.folder(record.stage, record.fingerprint) or self._whole_here(record):
            return artifact.read_whole(path)
        file = record.file(path)
        answer = self.objects.read(file_key(record, file), limit=file.size)
        if answer is None or hashlib.sha256(answer[0]).hexdigest() != file.sha256:
            raise ObjectDamagedError(
                f"{self.objects.place(file_key(record, file))} must be as it was written; it "
                f"{'is missing' if answer is None else OTHER_BYTES}. Run verify --repair on that store."
            )
        return answer[0]

    def share(self, artifact: Artifact, *, force: bool = False) -> Artifact:
        """Upload a committed artifact, after the artifacts it was made from; or take what is there."""
        record = artifact.record
        known = self.records.known(record.stage, record.fingerprint)
        if known is not None and known.record.digest == record.digest:
            if force:  # made anew with the same bytes: for others, too, it is the newest
                self.note_asked(artifact, at=record.created)
            return artifact
        self.check_writable()
        self._share_sources(record)
        try:
            return self._share(artifact, force=force)
        except RemoteError as error:
            raise RemoteError(
                f"{error}\n{artifact.name} is complete in {artifact.path}, and is uploaded when the same command runs "
                "again."
            ) from error

    def check_writable(self) -> None:
        """Refuse a store that lets two writers overwrite each other, unless there is only one writer."""
        if not self._single_writer:
            check_conditional_writes(self.objects, self._memory / "conditional-writes.json")

    def absolute(self) -> "RemoteStore":
        """Return the store itself: its folder is absolute."""
        return self

    def is_here(self, artifact: Artifact) -> bool:
        """Tell whether there is a local copy of the artifact."""
        with contextlib.suppress(ProtoRKDError):
            local = super().find(artifact.record.stage, artifact.record.fingerprint)
            return local is not None and local.record.digest == artifact.record.digest
        return True

    def remark(self, artifact: Artifact) -> str:
        """Say where the artifact is, for a line about it, unless it is in both places."""
        known = self.records.known(artifact.record.stage, artifact.record.fingerprint)
        if known is None:
            return "  here alone: the same command uploads it"
        return "" if self.is_here(artifact) else "  not here: fetched when it is needed"

    def remote_problems(self, artifact: Artifact) -> dict[str, str]:
        """Read all objects of an artifact; name the files that are not as the remote record says."""
        there = self.records.read(artifact.record.stage, artifact.record.fingerprint)
        if there is None:
            return {}
        files = there.record.files
        problems = in_parallel(lambda file: self.objects.problem(file_key(there.record, file), file), files)
        return {file.path: problem for file, problem in zip(files, problems, strict=True) if problem}

    def upload_again(self, artifact: Artifact, paths: Collection[str]) -> bool:
        """Upload files of an artifact again from a whole local copy; false where that copy has other files."""
        there = self.records.read(artifact.record.stage, artifact.record.fingerprint)
        if there is None or files_folder(there.record) != files_folder(artifact.record):
            return False
        self._upload(artifact, [file for file in artifact.record.files if file.path in paths])
        return True

    def is_there(self, artifact: Artifact) -> bool:
        """Tell whether the object store has an artifact with these bytes, as far as its record says."""
        there = self.records.read(artifact.record.stage, artifact.record.fingerprint)
        return there is not None and there.record.digest == artifact.record.digest

    def withdraw(self, path: Path) -> Path | None:
        """Move a record out of the object store and keep it here; its artifact can then be made and uploaded anew.

        Args:
            path: Path of the artifact's folder.

        Returns:
            Where the record lies now; None where there was none.
        """
        stage, fingerprint = path.parent.name, path.name
        answer = self.objects.read(record_key(stage, fingerprint))
        if answer is None:
            return None
        target = self.root / SET_ASIDE_NAME / f"{stage}-{fingerprint[:12]}-{uuid.uuid4().hex[:6]}" / RECORD_NAME
        write_atomic(target, answer[0])
        self.objects.remove([record_key(stage, fingerprint)])
        self.records.forget(stage, fingerprint)
        return target

    def note_asked(self, artifact: Artifact, *, at: str) -> None:
        """Note it there by one request, whatever is the newest there; if it cannot be noted there, note it here."""
        try:
            self.records.note_asked(artifact.record.stage, artifact.record.fingerprint, at=at)
        except ProtoRKDError as error:
            log.info("%s is noted here alone as the last that was asked for: %s", artifact.name, error)
            with contextlib.suppress(ProtoRKDError):
                self._write_asked(artifact, at)

    def remove(self, path: Path) -> None:
        """Delete an artifact there and here, its record first; or a leftover, which is only here."""
        stage, fingerprint = path.parent.name, path.name
        if FINGERPRINT.fullmatch(fingerprint):
            self.objects.remove([record_key(stage, fingerprint), asked_key(stage, fingerprint)])
            self.records.forget(stage, fingerprint)
            self.objects.remove([found.key for found in self.objects.below(f"{stage}/{fingerprint}")])
        self._asked_path(path).unlink(missing_ok=True)
        if path.exists():
            super().remove(path)

    def _asked(self, stage: str | None) -> dict[Path, str]:
        asked = super()._asked(stage)
        for name, at in self.records.asked(stage).items():
            path = self.folder(*name)
            asked[path] = max(at, asked.get(path, ""))
        return asked

    def _here(self, stage: str, fingerprint: str) -> tuple[Artifact | None, ProtoRKDError | None]:
        try:
            return super().find(stage, fingerprint), None
        except NewerRecordError:
            raise  # what is fetched must not take its place
        except ProtoRKDError as error:
            return None, error

    def _whole_here(self, record: ArtifactRecord) -> Artifact | None:
        local, _ = self._here(record.stage, record.fingerprint)
        if local is None or local.record.digest != record.digest:
            return None
        return None if local.record.problems(local.path, read=False) else local

    def _fetch(self, artifact: Artifact, scratch: Path) -> Artifact:
        record, started = artifact.record, time.monotonic()
        remote = self.records.read(record.stage, record.fingerprint)
        if remote is None:
            raise ProtoRKDError(f"{artifact.name} must be in {self}; it is there no more. Run {record.stage} again.")
        record = remote.record
        final = self.folder(record.stage, record.fingerprint)
        for file in record.files:  # reuse files of a damaged copy or a killed fetch
            if file.problem(scratch, read=True) and not file.problem(final, read=True):
                (scratch / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(final / file.path, scratch / file.path)
        lacking = [file for file in record.files if file.problem(scratch, read=False)]
        lost = {path for path in in_parallel(lambda file: self._bring(record, file, scratch), lacking) if path}
        if lost:
            log.warning("%s: %s is fetched without logs that are damaged: %s", self, artifact.name, ", ".join(lost))
        record = replace(record, files=tuple(file for file in record.files if file.path not in lost))
        wanted = {file.path for file in record.files}
        for path in scratch.rglob("*"):
            if path.is_file() and path.relative_to(scratch).as_posix() not in wanted:
                path.unlink()
        fsync_all([scratch / file.path for file in record.files])
        record.write(scratch)
        if final.exists():
            super().remove(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch.rename(final)
        fsync(final.parent)
        self._tell("fetched", artifact.name, lacking, started)
        return Artifact(final, record)

    def _bring(self, record: ArtifactRecord, file: FileEntry, scratch: Path) -> str | None:
        """Fetch a file; return its path if it is damaged but not an output."""
        try:
            self.objects.download(file_key(record, file), file, scratch)
        except ObjectDamagedError:
            if file in record.digested_files:
                raise
            return file.path
        return None

    def _share_sources(self, record: ArtifactRecord) -> None:
        """Upload the artifacts that an artifact was made from and that are only here: gc may have removed them."""
        recently = time.monotonic() - _CONFIRMED_S
        digests = {entry.digest for entry in record.inputs.values()} | set(record.uses)
        wanted = {digest for digest in digests if self._confirmed.get(digest, recently) <= recently}
        sources = [Artifact(path, ArtifactRecord.read(path)) for path, digest in self._digests() if digest in wanted]
        for stage in {artifact.record.stage for artifact in sources}:
            self.records.survey(stage)
        for artifact in sources:
            self.share(artifact)
        self._confirmed |= dict.fromkeys(wanted, time.monotonic())

    def _digests(self) -> Iterator[tuple[Path, str]]:
        """Yield folder and digest of each artifact here; a record is read once."""
        for path in self._committed(None):
            if path not in self._known_digests:
                with contextlib.suppress(ProtoRKDError):  # damaged: nobody reads it
                    self._known_digests[path] = ArtifactRecord.read(path).digest
            if path in self._known_digests:
                yield path, self._known_digests[path]

    def _share(self, artifact: Artifact, *, force: bool) -> Artifact:
        record, started = artifact.record, time.monotonic()
        there = self.records.read(record.stage, record.fingerprint)
        if there is None or (force and there.record.digest != record.digest):
            lacking = self._not_there(record)
            self._upload(artifact, lacking)
            data = (artifact.path / RECORD_NAME).read_bytes()
            key = record_key(record.stage, record.fingerprint)
            if there is not None:
                written = self.objects.replace(key, data, seen=there.seen)
            elif self._single_writer:
                written = self.objects.write(key, data)
            else:
                written = self.objects.create(key, data)
            if written is not None:
                self.records.remember(record.stage, record.fingerprint, data, written)
                self._tell("uploaded", artifact.name, lacking, started)
                return artifact
            there = self.records.read(record.stage, record.fingerprint)
        if there is None:
            raise RemoteError(f"{self} must keep what is written; {artifact.name} was refused as there, and is not.")
        return artifact if there.record.digest == record.digest else self._take_existing(artifact, there)

    def _take_existing(self, artifact: Artifact, there: RemoteRecord) -> Artifact:
        """Take the artifact that another writer made of the same request, with other bytes; ours is set aside."""
        aside = self.set_aside(artifact.path)
        log.warning(
            "%s: %s already holds %s with other bytes, digest %s and not %s; that one is used, and the one made here "
            "is set aside as %s. --force puts this machine's in its place.",
            artifact.record.stage, self, artifact.name, there.record.digest[:12], artifact.record.digest[:12], aside,
        )  # fmt: skip
        return self.fetch(Artifact(artifact.path, there.record))

    def _not_there(self, record: ArtifactRecord) -> list[FileEntry]:
        """List the files that a killed upload has not written; files written long ago count as missing."""
        folder, oldest = files_folder(record), datetime.now(UTC) - _TRUSTED
        there = {found.key: found.size for found in self.objects.below(folder) if found.modified > oldest}
        return [file for file in record.files if there.get(f"{folder}/{file.path}") != file.size]

    def _upload(self, artifact: Artifact, files: Sequence[FileEntry]) -> None:
        record = artifact.record
        in_parallel(lambda file: self.objects.upload(file_key(record, file), file, artifact.path), files)

    def _tell(self, what: str, name: str, files: Sequence[FileEntry], started: float) -> None:
        size = sum(file.size for file in files)
        seconds = time.monotonic() - started
        log.info("%s %s: %d files, %.1f MB, in %.1f s, %s", what, name, len(files), size / 1e6, seconds, self)


def default_cache(url: str) -> Path:
    """Return the folder of the local store of a URL, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url.rstrip("/"))
    return cache / "protorkd" / "stores" / f"{name}-{_place_id(url.rstrip('/'))}"


def _place_id(url: str) -> str:
    """Return an id that tells places apart whose URLs are equal, on two servers, or similar."""
    return hash_json([url, os.environ.get("AWS_ENDPOINT_URL", "")])[:8]
