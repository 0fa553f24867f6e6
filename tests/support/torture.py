"""Kills each stage at random moments, goes on from what is left, and counts whatever is not as it must be.

``python -m tests.support.torture --kills 500``: every kill is a SIGKILL of a process that runs the command line, at a
moment drawn evenly over the time that the undisturbed run takes. Then the store is read to the last byte, the same
command is run to its end, and its digest is compared with the undisturbed one's. Processes are forked from one that has
imported everything, so that a kill costs the work and not the imports; nor do they wait for the disk, which only a
power cut can tell.

Of a job that is joined, several processes make one artifact, and two of them are killed; the others must make it whole
without them, and embed at most one shard again for each kill.
"""

import argparse
import hashlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli import cli
from data_schemas.artifact_record import JOURNAL_NAME, RECORD_NAME
from data_schemas.embedding_array import ARRAY_NAME
from data_schemas.files import append_line
from pipeline.commands.artifacts import artifact_problems
from pipeline.store.draft import read_journal
from pipeline.store.leases import LEASE_VARIABLE
from pipeline.store.shards import Facts, JointShards
from pipeline.store.store import Store
from tests.support.workbench import (
    DISTILL,
    FEATURES,
    counted_captions,
    make_backbone_weights,
    make_manifest,
    make_pairs,
    make_word_vectors,
)

_SHARD_ROWS = 256


@dataclass
class Findings:
    """Outcomes of the kills of one job.

    Args:
        kills: Number of kills that hit a process at work.
        late: Number of kills that came when it was done.
        wrong: Descriptions of everything that must not be.
    """

    kills: int = 0
    late: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """A command to be killed.

    Args:
        name: Name of the stage.
        words: Words of the command line.
        before: Command lines that make the store which it starts from.
        joined: Number of processes that share the work; two of them are killed. 1 is one that works alone.
    """

    name: str
    words: tuple[object, ...]
    before: tuple[tuple[object, ...], ...] = ()
    joined: int = 1


def jobs(root: Path) -> Iterator[Job]:
    """Make a job for every stage, on images and captions that are made below a folder."""
    pairs = make_pairs(root / "pictures", 24, 40)
    captions = counted_captions(4000)
    manifest = make_manifest(root / "many.tsv", [f"{number}.jpg" for number in range(len(captions))], captions)
    words = make_word_vectors(root / "words.txt")
    encode = ("encode-teacher", "--manifest", pairs.manifest, "--teacher", words)
    many = ("encode-teacher", "--manifest", manifest, "--teacher", words, "--shard-rows", _SHARD_ROWS)
    distill = (*DISTILL, "--save-every-minutes", 1e-9)
    evaluate = ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", pairs.manifest)
    yield Job("encode-teacher", many)
    yield Job("encode-teacher joined", many, joined=4)
    images = make_pairs(root / "many", 240, 40).root
    embed = ("embed", "--images", images, "--device", "cpu", "--workers", 0)
    weights = make_backbone_weights(root / "backbone.safetensors")
    yield Job("encode-images", (*FEATURES, "--init-from", weights, "--images", images))
    yield Job("pack", ("pack", "--images", images, "--shard-images", 20))
    yield Job("prototypes", ("prototypes", "--num-prototypes", 64, "--device", "cpu"), before=(many,))
    yield Job("distill", distill, before=(encode,))
    yield Job("evaluate", evaluate, before=(encode, distill))
    yield Job("embed", embed, before=(encode, distill))
    yield Job("export", ("export",), before=(encode, distill))
    yield Job("gc", ("gc", "--yes"), before=(encode, (*encode, "--limit", 10), distill, (*encode, "--limit", 12)))


def torture(job: Job, *, kills: int, seed: int, root: Path) -> Findings:
    """Kill a job so many times at work, each time on a fresh copy of the store that it starts from."""
    ready = _ready(job.before, root.parent)
    for _ in range(min(kills, 2)):  # of many, the first finds no file in memory
        with _copied(ready, root / "undisturbed") as store:
            seconds = _run(job.words, store)
            expected = _contents(store)
    findings, draw = Findings(), random.Random(f"{seed} {job.name}")
    while findings.kills < kills and job.joined > 1:
        with _copied(ready, root / "store") as store:
            _kill_two(job, store, findings, draw, seconds)
            if (contents := _contents(store)) != expected:
                findings.wrong.append(f"artifacts {sorted(contents ^ expected)}")
            findings.wrong += _wrong(store)
            _run(("gc", "--yes"), store)  # one that is killed behind the commit of another leaves its draft
            findings.wrong += [f"left: {path}" for path in Store(store).leftovers()]
    while findings.kills < kills:
        moment = draw.uniform(0, seconds)
        with _copied(ready, root / "store") as store:
            if not _kill(job.words, store, after_s=moment):
                findings.late += 1  # one more that nothing disturbed
                continue
            findings.kills += 1
            problems, num_whole = _wrong(store), _whole_shards(store)
            _run(job.words, store)
            problems += _wrong(store) + _redone(store, num_whole)
            if (contents := _contents(store)) != expected:
                problems.append(f"artifacts {sorted(contents ^ expected)}")
            findings.wrong += [f"killed after {moment:.3f} s: {one}" for one in problems]
    return findings


def _kill_two(job: Job, store: Path, findings: Findings, draw: random.Random, seconds: float) -> None:
    """Start all processes of a job, kill two at random moments, and wait for the others."""
    computed = store / "computed"
    processes = [_fork((*job.words, "--join"), store, computed=computed) for _ in range(job.joined)]
    moments = sorted(draw.uniform(0, seconds) for _ in range(2))
    victims = draw.sample(processes, 2)
    start = time.monotonic()
    killed = 0
    for moment, victim in zip(moments, victims, strict=True):
        time.sleep(max(0.0, start + moment - time.monotonic()))
        os.kill(victim, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(victim, 0)[1])
    findings.kills += killed
    findings.late += 2 - killed
    for process in set(processes) - set(victims):
        if os.waitpid(process, 0)[1]:
            findings.wrong.append(f"killed after {moments} s: process {process} failed")
    shards = computed.read_text().split() if computed.exists() else []
    computed.unlink(missing_ok=True)
    if len(shards) - len(set(shards)) > killed:
        findings.wrong.append(
            f"killed {killed} after {moments} s: of {len(set(shards))} shards {len(shards)} were made"
        )


def _ready(before: tuple[tuple[object, ...], ...], root: Path) -> Path:
    """Run commands one after the other; jobs that begin with the same ones share the store that they make."""
    store = root / "ready" / hashlib.sha256(repr(before).encode()).hexdigest()[:12]
    if not store.exists():
        if before:
            shutil.copytree(_ready(before[:-1], root), store)
            _run(before[-1], store)
        else:
            store.mkdir(parents=True)
    return store


def _wrong(store: Path) -> list[str]:
    """List what differs from the records, and artifacts that cannot be opened."""
    opened = Store(store)
    found = [f"{path}: {error}" for path, error in opened.unreadable().items()]
    for artifact in opened.artifacts():
        found += [f"{artifact.name}, {path}: {problem}" for path, problem in artifact_problems(artifact).items()]
    return found


def _whole_shards(store: Path) -> int:
    """Count the whole shards of captions that a killed run recorded; a sealed draft has none left to resume."""
    drafts = [path for path in store.glob("encode-teacher/.draft-*") if not (path / RECORD_NAME).exists()]
    journals = [path / JOURNAL_NAME for path in drafts]
    return sum(path.startswith(f"{ARRAY_NAME}/c/") for journal in journals for path in read_journal(journal))


def _redone(store: Path, num_whole: int) -> list[str]:
    """Report captions of whole shards that were embedded again."""
    if not num_whole:
        return []
    resumed = [artifact.record.counts["resumed_captions"] for artifact in Store(store).artifacts("encode-teacher")]
    return [] if max(resumed) >= (num_whole - 1) * _SHARD_ROWS else [f"{num_whole} shards whole, {resumed} resumed"]


def _contents(store: Path) -> set[tuple[str, str, str]]:
    records = [artifact.record for artifact in Store(store).artifacts()]
    return {(record.stage, record.fingerprint, record.digest) for record in records}


def _fork(words: tuple[object, ...], store: Path, *, computed: Path | None = None) -> int:
    """Start the command line in a process of its own, without its output on the terminal.

    Args:
        words: Words of the command line.
        store: Store that it works on.
        computed: File to which it adds the number of each shard that it has embedded; None for none.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if computed is not None:
            _note_shards(computed)
        cli.main([*map(str, words), "--store", str(store)], standalone_mode=False)
        code = 0
    finally:
        os._exit(code)


def _note_shards(computed: Path) -> None:
    """Let this process note the shards that it has embedded, before anybody can know."""
    finish = JointShards.finish

    def noted(queue: JointShards, number: int, facts: Facts) -> None:
        append_line(computed, str(number))
        finish(queue, number, facts)

    JointShards.finish = noted  # type: ignore[method-assign]


def _run(words: tuple[object, ...], store: Path) -> float:
    """Run to the end, and say how long it took."""
    start = time.monotonic()
    _, status = os.waitpid(_fork(words, store), 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, words))} must succeed on {store}; it did not.")
    return time.monotonic() - start


def _kill(words: tuple[object, ...], store: Path, *, after_s: float) -> bool:
    """Kill after so many seconds; return whether the process was still at work."""
    process = _fork(words, store)
    time.sleep(after_s)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


@contextmanager
def _copied(source: Path, target: Path) -> Iterator[Path]:
    shutil.copytree(source, target)
    try:
        yield target
    finally:
        shutil.rmtree(target)


def main() -> None:
    """Torture every stage, and end with status 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=500, help="In all, shared out evenly over the jobs.")
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    parser.add_argument("--only", action="append", help="This job alone; repeatable.")
    options = parser.parse_args()
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        LEASE_VARIABLE: "1",
    }  # a forked process would miss torch's other threads
    os.fsync, os.sync = (lambda _: None), (lambda: None)
    for name in (
        "stages.distill.run",
        "stages.prototypes.run",
        "stages.evaluate.run",
        "stages.components.teacher.teacher",
        "cv2",
        "faiss",
    ):
        importlib.import_module(name)
    num_wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [job for job in jobs(Path(folder)) if job.name in (options.only or [job.name])]
        for number, job in enumerate(chosen):
            share = options.kills * (number + 1) // len(chosen) - options.kills * number // len(chosen)
            findings = torture(job, kills=share, seed=options.seed, root=Path(folder) / job.name)
            sys.stdout.write(
                f"{job.name}: {findings.kills} kills at work, {findings.late} after it, {len(findings.wrong)} wrong\n"
            )
            sys.stdout.writelines(f"  {one}\n" for one in findings.wrong)
            sys.stdout.flush()
            num_wrong += len(findings.wrong)
    sys.exit(bool(num_wrong))


if __name__ == "__main__":
    main()
