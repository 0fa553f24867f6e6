"""The shards of a draft that are still to be written: those of one process, or of several that share them by leases."""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry, disk_errors, link_whole
from pipeline.log import log
from pipeline.store.leases import Leases, lease_seconds
from pipeline.store.shared_place import SharedPlace
from pipeline.store.store import JOINT_NAME

if TYPE_CHECKING:
    from pipeline.store.draft import Draft

Facts = Mapping[str, Any]
"""What a stage says of a shard, as JSON: counts that are summed up over all shards in the end."""

_COMMIT = "commit"
_WORKERS, _DONE = "workers", "done"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 5.0


class ShardQueue(Protocol):
    """The shards of a draft, by number, each of which somebody has to write.

    ``facts`` holds the facts of the shards that are whole; of all of them once `rounds` has come to its end.
    """

    facts: dict[int, Facts]

    def rounds(self) -> Iterator[Iterable[int]]:
        """Yield rounds of shards to write, until all are whole.

        A round's shards are all finished before the next round is asked for.
        """

    def finish(self, number: int, facts: Facts) -> None:
        """Note that a shard's files are whole, from any thread."""


Look = Callable[[int], Facts | None]
"""Returns the facts of a shard whose files have the bytes that were written, or None where it must be written anew."""


class OwnShards:
    """The shards of a process that works alone; those that an earlier run left whole stand.

    Args:
        draft: Draft of the artifact.
        files: Files of each shard, relative to the draft.
        look: Looks at a shard that is there.
    """

    def __init__(self, draft: "Draft", files: Sequence[tuple[str, ...]], look: Look) -> None:
        self._draft, self._files = draft, files
        self.facts: dict[int, Facts] = {}
        for number, paths in enumerate(files):
            facts = look(number) if all(map(draft.is_whole, paths)) else None
            if facts is not None:
                self.facts[number] = facts

    def rounds(self) -> Iterator[Iterable[int]]:
        """Yield all missing shards, once."""
        yield [number for number in range(len(self._files)) if number not in self.facts]

    def finish(self, number: int, facts: Facts) -> None:
        """Note the files in the draft's journal."""
        for path in self._files[number]:
            self._draft.adopt(path)
        self.facts[number] = facts


class MadeByOthersError(Exception):
    """Another process of a joint run has committed the artifact, so nothing is left to do."""


class Joint:
    """A process's part in the run of a request that several processes share; leaving gives up its leases.

    Each works in a draft of its own, so that one that dies, or wakes up late, spoils nothing of the others'. A whole
    shard goes into the shared place under its SHA-256, and then is noted as done, on condition that it was not: of two
    who made one, the first counts for all. Who finds all done, and gets the lease of the commit, brings the shards into
    its draft, and commits that.

    Args:
        folder: Folder of the request's draft.
        open_place: Opens the shared place of a key.
        is_made: Tells whether the artifact is committed.
    """

    def __init__(self, folder: Path, *, open_place: Callable[[str], SharedPlace], is_made: Callable[[], bool]) -> None:
        self.folder = folder
        self.workspace = folder / JOINT_NAME / _WORKERS / uuid.uuid4().hex[:12]
        self.place: SharedPlace | None = None
        self._open_place, self._is_made = open_place, is_made
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make the workspace."""
        with disk_errors(self.workspace):
            while not self.workspace.is_dir():
                with contextlib.suppress(FileNotFoundError):  # another, which leaves, removes empty folders
                    self.workspace.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let others have what this process has claimed, and remove what only it can use."""
        self._held.close()
        shutil.rmtree(self.workspace, ignore_errors=True)
        with contextlib.suppress(ProtoRKDError):
            if self._is_made():  # by this process or another, and perhaps written into since that one tidied up
                self.discard()
                shutil.rmtree(self.folder, ignore_errors=True)  # of several at once, each passes over what is gone
        for empty in (self.workspace.parent, self.folder / JOINT_NAME, self.folder):
            with contextlib.suppress(OSError):
                empty.rmdir()

    def discard(self) -> None:
        """Forget what all processes have made."""
        if self.place is not None:
            self.place.clear()

    def shards(self, draft: "Draft", files: Sequence[tuple[str, ...]], look: Look, *, left: "Draft") -> "JointShards":
        """Open the shards, which others share who have adopted the same files of the same bytes so far.

        Args:
            draft: Draft of this process.
            files: Files of each shard, relative to the draft.
            look: Looks at a shard that a run by one process left whole.
            left: What that left.
        """
        adopted = draft.adopted
        key = hashlib.sha256(json.dumps([asdict(each) for each in adopted], sort_keys=True).encode())
        self.place = self._open_place(key.hexdigest()[:16])
        if self.place.siblings():
            log.warning(
                "others make the same from what they read in other bytes, as libraries of other versions write it: "
                "their shards are not shared, and who is done first counts"
            )
        leases = self._held.enter_context(Leases(self.place, lease_s=lease_seconds()))
        return JointShards(
            draft,
            files,
            look,
            left=left if all(map(left.knows, adopted)) else None,
            place=self.place,
            leases=leases,
            is_made=self._is_made,
        )


class JointShards:
    """The shards that the processes of a joint run share.

    Args:
        draft: Draft of this process.
        files: Files of each shard, relative to the draft.
        look: Looks at a shard that a run by one process left whole.
        left: What that left, or None.
        place: Place that all processes see.
        leases: Leases of this process.
        is_made: Tells whether the artifact is committed.
    """

    def __init__(
        self,
        draft: "Draft",
        files: Sequence[tuple[str, ...]],
        look: Look,
        *,
        left: "Draft | None",
        place: SharedPlace,
        leases: Leases,
        is_made: Callable[[], bool],
    ) -> None:
        self._draft, self._files, self._look, self._left = draft, files, look, left
        self._place, self._leases, self._is_made = place, leases, is_made
        self.facts: dict[int, Facts] = {}
        self._done: set[int] = set()
        self._look_for_done()
        first = uuid.uuid4().int % max(len(files), 1)  # so that who begins together rarely meets
        self._order = [*range(first, len(files)), *range(first)]

    def rounds(self) -> Iterator[Iterable[int]]:
        """Yield rounds of claimed shards; at the end all are whole, and this process alone may commit.

        Raises:
            MadeByOthersError: another process has committed the artifact.
            ProtoRKDError: a shard that another process made is not as it was written, or the place fails.
        """
        while True:
            yield self._claimed()
            if self._wait():
                break
        self._collect()

    def finish(self, number: int, facts: Facts) -> None:
        """Publish a shard, unless another process was quicker: then that one's counts."""
        entries = [self._draft.adopt(path) for path in self._files[number]]
        for entry in entries:
            self._place.put(entry, self._draft.path)
        done = {"files": [asdict(entry) for entry in entries], "facts": facts}
        self._place.create(f"{_DONE}/{number}", json.dumps(done, sort_keys=True).encode())
        self.facts[number] = facts
        self._done.add(number)

    def _claimed(self) -> Iterator[int]:
        """Claim shards, each when it is asked for."""
        for number in self._order:
            name = f"shard-{number}"
            if number in self._done or not self._leases.is_free(name):
                continue
            self._check_made()
            if not self._leases.claim(name):
                self._look_for_done()  # others are at work here: what they have done needs no further request
                self._leases.look_for_leases()
                continue
            if self._leases.was_taken_over(name) and self._place.read(f"{_DONE}/{number}") is not None:
                self._done.add(number)
            elif not self._take_left(number):
                yield number

    def _wait(self) -> bool:
        """Wait until there is something to claim; true where all is done and this process has to commit."""
        seconds, said = _FIRST_WAIT_S, False
        while True:
            self._check_made()
            self._look_for_done()
            missing = [number for number in self._order if number not in self._done]
            if not missing and self._leases.claim(_COMMIT):
                return True
            self._leases.look_for_leases()
            if any(self._leases.is_free(f"shard-{number}") for number in missing):
                return False
            if not said:
                others = ", ".join(self._leases.others()) or "others"
                log.info("waiting for %s, with %d shards to go", others, len(missing))
                said = True
            time.sleep(seconds)
            seconds = min(seconds * 1.5, _LONGEST_WAIT_S, self._leases.beat_s)

    def _check_made(self) -> None:
        if self._is_made():
            raise MadeByOthersError

    def _look_for_done(self) -> None:
        self._done |= {int(name) for name in self._place.names(_DONE) if name.isdigit()}

    def _take_left(self, number: int) -> bool:
        """Take a shard that a run by one process left whole, before others joined; false where there is none."""
        left, paths = self._left, self._files[number]
        if left is None or not all(map(left.is_whole, paths)):
            return False
        for path in paths:
            (self._draft.path / path).parent.mkdir(parents=True, exist_ok=True)
            link_whole(left.path / path, self._draft.path / path)
        facts = self._look(number)
        if facts is not None:
            self.finish(number, facts)
        return facts is not None

    def _collect(self) -> None:
        """Bring all shards into the draft, and learn their facts."""
        for number, paths in enumerate(self._files):
            done = json.loads(self._place.read(f"{_DONE}/{number}") or b"{}")
            entries = [FileEntry(**each) for each in done.get("files", ())]
            if [entry.path for entry in entries] != list(paths):
                raise self._damaged(number)
            self.facts[number] = done["facts"]
            for entry in entries:
                if self._place.keeps_files:
                    self._draft.note_elsewhere(entry)
                elif not self._draft.knows(entry):
                    self._place.bring(entry, self._draft.path)
                    if self._draft.adopt(entry.path) != entry:
                        raise self._damaged(number)

    def _damaged(self, number: int) -> ProtoRKDError:
        """Let a shard be made anew by whoever comes next."""
        self._place.remove(f"{_DONE}/{number}")
        return ProtoRKDError(
            f"Shard {number} of {self._draft.path} must be as it was written; it is not. Run the same command again: "
            "that shard is made anew, the others are kept."
        )
