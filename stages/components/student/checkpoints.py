"""Find the weights that a distillation has kept, whether it is finished, still runs or was stopped."""

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.artifact_record import JOURNAL_NAME, RECORD_NAME, ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry
from data_schemas.images.student_checkpoint import (
    CHECKPOINT_FOLDER,
    CONFIG_NAME,
    WEIGHTS_NAME,
    StudentConfig,
    checkpoint_path,
)
from data_schemas.later_fields import as_plain
from pipeline.fingerprint import hash_json
from pipeline.store.draft import read_journal
from pipeline.store.locks import begun, is_held
from pipeline.store.store import DRAFT_PREFIX, Artifact, Store

LAST, ALL = "last", "all"
RUNNING, STOPPED, DONE = "running", "stopped", "done"

_STAGE = "distill"
_ARCHITECTURE = ("pooling", "architecture", "head", "backbone_digest")
_KEPT = re.compile(re.escape(checkpoint_path(0)).replace("0", "([1-9][0-9]*)"))


@dataclass(frozen=True)
class StudentWeights:
    """A checkpoint of a student whose weights are not loaded yet.

    Args:
        config: Configuration in the student's folder.
        weights: File of the weights, where it was found.
        sha256: Digest of that file.
        name: ``epoch_3``, or ``last`` for the weights at the end of the distillation.
        epoch: Epoch after which the weights were kept; None if it is not known.
        fingerprint: Fingerprint of the distillation.
        artifact: Artifact of the distillation; None while it is not finished.
    """

    config: StudentConfig
    weights: Path
    sha256: str
    name: str
    epoch: int | None
    fingerprint: str
    artifact: Artifact | None = None

    @property
    def identity(self) -> str:
        """Hash of the weights, of what they are the weights of, and of the preprocessing."""
        described = as_plain(self.config)  # without what students of before do not have
        rest = {name: described[name] for name in _ARCHITECTURE if name in described}
        return hash_json([self.sha256, self.config.backbone, self.config.preprocessing, *([rest] if rest else [])])

    @property
    def pass_identity(self) -> str:
        """Identity of what images pass through: the frozen backbone, or the whole student where it has none."""
        return self.config.backbone_digest or self.identity

    @property
    def folder(self) -> Path:
        """The artifact's folder; for an unfinished distillation, its future one."""
        parent = self.weights.parent
        root = parent.parent if parent.name == CHECKPOINT_FOLDER else parent
        return root.with_name(root.name.removeprefix(DRAFT_PREFIX))

    @property
    def places(self) -> tuple[Path, Path]:
        """Paths at which the weights may be by now: a draft is renamed when it becomes an artifact."""
        path = WEIGHTS_NAME if self.name == LAST else f"{CHECKPOINT_FOLDER}/{self.weights.name}"
        return self.weights, self.folder / path


@dataclass(frozen=True)
class DistillRun:
    """A distillation in a store.

    Args:
        fingerprint: Fingerprint of its parameters and inputs.
        state: ``running`` while a live process works on it; ``stopped`` if the same command would resume it; or
            ``done``.
        artifact: Finished artifact; None unless it is done.
    """

    fingerprint: str
    state: str
    artifact: Artifact | None = None


def split_checkpoint(reference: str) -> tuple[str, str | None]:
    """Split ``REF@CHECKPOINT``; an existing folder with an ``@`` in its name is not split."""
    name, at, checkpoint = reference.rpartition("@")
    return (name, checkpoint) if at and not Path(reference).is_dir() else (reference, None)


def find_checkpoint(reference: str | None, *, store: Store, flag: str = "--student") -> StudentWeights:
    """Find the weights that an option names.

    Args:
        reference: REF for the last weights of a distillation, REF@epoch_3 for those after an epoch; None for the last
            weights of the newest distillation.
        store: Store with the distillations.
        flag: The option, for messages.

    Raises:
        ProtoRKDError: there is no such student, it kept no such weights, or a file is missing or cut.
    """
    name, checkpoint = (None, None) if reference is None else split_checkpoint(reference)
    artifact = store.resolve(name, stage=_STAGE, flag=flag)
    artifact.require_whole((CONFIG_NAME,), read=True)
    wanted = checkpoint or LAST
    known = {student.name: student for which in (LAST, ALL) for student in finished_checkpoints(artifact, which)}
    if wanted not in known:
        raise ProtoRKDError(
            f"{flag} must name weights that {artifact.name} kept; got {wanted!r}. Choose one of {', '.join(known)}, "
            f"as in {artifact.record.fingerprint[:12]}@{LAST}."
        )
    return known[wanted]


def find_weights(identity: str, *, location: Path, store: Store) -> StudentWeights:
    """Find the same weights that embedded images earlier.

    Args:
        identity: Identity of the weights, from `StudentWeights.identity`.
        location: Former folder of the artifact of distill, which is searched first.
        store: Store that is searched next.

    Raises:
        ProtoRKDError: they are gone.
    """
    known = [Artifact(location, ArtifactRecord.read(location))] if (location / RECORD_NAME).is_file() else []
    for artifact in [*known, *reversed(store.artifacts(_STAGE))]:
        for which in (LAST, ALL):
            with contextlib.suppress(ProtoRKDError):  # damaged; another artifact may have the same weights
                for student in finished_checkpoints(store.fetch(artifact), which):
                    if student.identity == identity:
                        return student
    raise ProtoRKDError(
        f"The student that embedded the images must be in {store} or at {location}; it is gone. Distill again "
        "with the same options."
    )


def finished_checkpoints(artifact: Artifact, which: str) -> list[StudentWeights]:
    """Find the weights that a finished distillation kept; sizes are checked here, digests when weights are loaded.

    Args:
        artifact: Artifact of distill.
        which: ``last`` for the weights at the end; ``all`` for those of each kept epoch, and ``last`` if none of them
            has its bytes; or epochs, such as ``2,4``.

    Returns:
        The checkpoints, in the order of epochs.

    Raises:
        ProtoRKDError: no such weights were kept, or a file is missing or cut.
    """
    files = {file.path: file for file in artifact.record.files}
    kept = _kept_epochs(list(files))
    last = files.get(WEIGHTS_NAME)
    chosen: dict[str, int | None] = {}
    if which != LAST:
        chosen |= {checkpoint_path(epoch): epoch for epoch in _chosen_epochs(which, kept, artifact)}
    kept_bytes = {files[path].sha256 for path in chosen}
    if which == LAST or (which == ALL and (last is None or last.sha256 not in kept_bytes)):
        epochs = artifact.record.params.get("epochs")
        chosen[WEIGHTS_NAME] = epochs if isinstance(epochs, int) else None
    if last is None:
        raise ProtoRKDError(f"{artifact.path} must hold {WEIGHTS_NAME}; its record names none. Run distill again.")
    artifact.require_whole(tuple(chosen))
    config = StudentConfig.read(artifact.path)
    fingerprint = artifact.record.fingerprint
    return [
        StudentWeights(
            config=config,
            weights=artifact.path / path,
            sha256=files[path].sha256,
            name=LAST if path == WEIGHTS_NAME else f"epoch_{epoch}",
            epoch=epoch,
            fingerprint=fingerprint,
            artifact=artifact,
        )
        for path, epoch in chosen.items()
    ]


def running_checkpoints(store: Store, fingerprint: str) -> list[StudentWeights]:
    """Find the weights that an unfinished distillation has kept so far and that match its journal.

    No lock is taken: if the run ends or restarts meanwhile, some or all of them may be missing.

    Returns:
        The checkpoints, in the order of epochs.
    """
    root = store.draft_folder(_STAGE, fingerprint)
    try:
        config = StudentConfig.read(root)
        journal = read_journal(root / JOURNAL_NAME)
    except (ProtoRKDError, OSError):
        return []
    return [
        StudentWeights(
            config=config,
            weights=root / entry.path,
            sha256=entry.sha256,
            name=f"epoch_{epoch}",
            epoch=epoch,
            fingerprint=fingerprint,
        )
        for epoch in _kept_epochs(list(journal))
        if _has_its_bytes(root, entry := journal[checkpoint_path(epoch)])
    ]


def find_run(store: Store, reference: str | None) -> DistillRun:
    """Find a distillation that is running, stopped or done.

    Args:
        store: Store with the distillations.
        reference: Fingerprint or its beginning, or the path of an artifact; None takes the running one that was begun
            last, or else the one that was last begun or asked for.

    Raises:
        ProtoRKDError: there is none, or more than one fits, or none is named and a record is damaged.
    """
    if reference is not None and Path(reference).is_dir():
        artifact = store.resolve(reference, stage=_STAGE, flag="--student")
        return DistillRun(artifact.record.fingerprint, DONE, artifact)
    drafts = _drafts(store)  # before the artifacts: a draft renamed meanwhile is seen twice, not missed
    finished, damaged = store.survey(_STAGE)
    known = dict.fromkeys([*drafts, *(each.record.fingerprint for each in finished), *(path.name for path in damaged)])
    fitting = [fingerprint for fingerprint in known if fingerprint.startswith(reference or "")]
    if reference is None:
        fitting = _newest(store, drafts, finished, damaged)
    if len(fitting) != 1:
        if reference is None:
            raise ProtoRKDError(f"{store} must hold a distillation; it has none. Start distill first.")
        what = "exactly one distillation" if fitting else "a distillation"
        listing = ", ".join(fingerprint[:12] for fingerprint in (fitting or known)) or "none"
        raise ProtoRKDError(
            f"--student must name {what} in {store}, by fingerprint or path; got {reference!r}. Known: {listing}."
        )
    return _run(store, fitting[0])


def _run(store: Store, fingerprint: str) -> DistillRun:
    if is_held(store, _STAGE, fingerprint):
        return DistillRun(fingerprint, RUNNING)
    artifact = store.find(_STAGE, fingerprint)
    return DistillRun(fingerprint, DONE if artifact else STOPPED, artifact)


def _newest(
    store: Store, drafts: Sequence[str], finished: Sequence[Artifact], damaged: Mapping[Path, ProtoRKDError]
) -> list[str]:
    """Return the fingerprint of the running distillation begun last, or of the one last begun or asked for, if any."""
    times = {fingerprint: begun(store, _STAGE, fingerprint) for fingerprint in drafts}
    running = [fingerprint for fingerprint in drafts if is_held(store, _STAGE, fingerprint)]
    if not running:
        if damaged:
            raise next(iter(damaged.values()))  # it might be the newest
        times |= {each.record.fingerprint: store.last_asked(each) for each in finished[-1:]}
    return sorted(running or times, key=times.__getitem__)[-1:]


def _drafts(store: Store) -> list[str]:
    """Return the fingerprints of unfinished distillations."""
    return [path.name.removeprefix(DRAFT_PREFIX) for path in (store.root / _STAGE).glob(f"{DRAFT_PREFIX}[!.]*")]


def _chosen_epochs(which: str, kept: Sequence[int], artifact: Artifact) -> list[int]:
    if which == ALL:
        return list(kept)
    words = [word.strip() for word in which.split(",")]
    wanted = {int(word) for word in words if word.isdecimal()}
    if not all(word.isdecimal() for word in words) or not wanted <= set(kept):
        listing = ", ".join(map(str, kept)) or "none"
        raise ProtoRKDError(
            f"--checkpoints must be {LAST}, {ALL}, or epochs that {artifact.name} kept; got {which!r}. Kept: {listing}."
        )
    return sorted(wanted)


def _kept_epochs(paths: Sequence[str]) -> list[int]:
    return sorted(int(found[1]) for path in paths if (found := _KEPT.fullmatch(path)))


def _has_its_bytes(root: Path, entry: FileEntry) -> bool:
    try:
        facts = (root / entry.path).stat()
    except OSError:
        return False
    return _read_as_written(root, entry, facts.st_ino, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _read_as_written(root: Path, entry: FileEntry, _inode: int, _mtime_ns: int) -> bool:
    """Check a checkpoint's digest, once for each version of the file."""
    return entry.problem(root, read=True) is None
