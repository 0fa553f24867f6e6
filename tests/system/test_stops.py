"""Real commands that are asked to stop, or that lose a reader: an end within seconds, and the same command goes on."""

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from processes import Command, Ended, abandoned_memory, abandoned_since, started
from workbench import Cli, counted_captions, make_bert, make_manifest, make_pairs, make_word_vectors

from cli import STOPPED_STATUS

SECONDS = 20.0  # the machine may be busy; a reader's death is noticed within five
START_S = 240.0  # the libraries of three processes are imported on what a busy machine has left

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Job:
    """A command, and the files that tell that it is at work: so many of them, with so many lines each.

    Args:
        words: Words of the command line.
        pattern: Pattern of the files to watch, below the store.
        lines: Number of lines in one of them at which it is stopped.
        keeps: Pattern of the files that must be there when it has stopped.
        says: Its message when it was stopped.
        resumes: Message of the same command when it is run again.
    """

    words: tuple[object, ...]
    pattern: str
    lines: int
    keeps: str
    says: str
    resumes: str


STOPPED = "Asked to stop, and did. Run the same command again: what was whole is kept."


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Job]]:
    """Return a store to be copied, and the commands by name."""
    root = tmp_path_factory.mktemp("stops")
    pairs = make_pairs(root / "pictures", 240, 40)
    cli = Cli(root / "store")
    cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", make_word_vectors(root / "words.txt"))
    small = ("--image-size", 32, "--batch-size", 8, "--workers", 2, "--device", "cpu")
    distill = ("distill", *small, "--student", "resnet18", "--log-every-steps", 1)
    cli(*distill, "--epochs", 1)
    many = make_manifest(root / "many.tsv", [f"{number}.jpg" for number in range(20_000)], counted_captions(20_000))
    encode = ("encode-teacher", "--manifest", many, "--teacher", make_bert(root / "bert", seed=0))
    encode += ("--shard-rows", 256, "--batch-tokens", 64)
    evaluate = ("evaluate", "--retrieval", pairs.manifest, "--device", "cpu", "--workers", 2, "--batch-size", 2)
    jobs = {
        "distill": Job(
            (*distill, "--epochs", 2),
            "distill/.draft-*/logs/metrics.jsonl",
            8,
            "distill/.draft-*/state/latest.safetensors",
            "distill was asked to stop and did, after step ",
            "going on from step",
        ),
        "encode-teacher": Job(
            encode,
            "encode-teacher/.draft-*/journal.jsonl",
            6,
            "encode-teacher/.draft-*/embeddings.zarr/c/0/0",
            STOPPED,
            "going on from what an earlier run left",
        ),
        "encode-teacher on two devices": Job(
            (*encode, "--device", "cpu,cpu"),
            "encode-teacher/.draft-*/journal.jsonl",
            6,
            "encode-teacher/.draft-*/embeddings.zarr/c/0/0",
            STOPPED,
            "going on from what an earlier run left",
        ),
        "evaluate": Job(evaluate, "image-embeddings/.draft-*", 0, "distill/*/artifact.json", STOPPED, ""),
    }
    return root / "store", jobs


@pytest.fixture
def jobs(ready: tuple[Path, dict[str, Job]], store: Path) -> dict[str, Job]:
    """Return the commands, with a store of this test's own."""
    shutil.copytree(ready[0], store)
    return ready[1]


@contextmanager
def at_work(job: Job, store: Path, log: Path) -> Iterator[Command]:
    """Start a command, and wait until it is at work; in the end no shared memory must be left."""
    before = abandoned_memory()
    with started(*job.words, "--store", store, log=log) as command:
        deadline = time.monotonic() + START_S
        while not any(_is_at_work(path, job.lines) for path in store.glob(job.pattern)):
            assert command.process.poll() is None, command.said()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield command
    assert not abandoned_since(before)


def wait_for_processes(command: Command, find: Callable[[], list[int]]) -> None:
    """Wait until a command that is at work has started two of the processes that it works with."""
    deadline = time.monotonic() + START_S
    while len(find()) < 2:
        assert command.process.poll() is None, command.said()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_at_work(path: Path, lines: int) -> bool:
    return not lines or len(path.read_bytes().splitlines()) >= lines


def ended_well_by(command: Command, cli: Cli, job: Job, ended: Ended, *, status: int = STOPPED_STATUS) -> None:
    """Hold a command that did not come to its end to what it must leave behind, and run it again."""
    assert ended.status == status, ended
    assert "Traceback" not in ended.said
    assert ended.seconds < SECONDS
    assert not command.left_over(timeout_s=SECONDS)
    assert list(cli.store.glob(job.keeps))
    assert "NOT WHOLE" not in cli.run("verify").stdout
    again = cli.run(*job.words)
    assert again.exit_code == 0, again.output
    assert job.resumes in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["distill", "encode-teacher", "encode-teacher on two devices", "evaluate"])
def test_command__that_is_asked_to_stop_ends_in_seconds_and_goes_on_later(
    name: str, number: signal.Signals, jobs: dict[str, Job], run_cli: Cli, tmp_path: Path
) -> None:
    job = jobs[name]
    with at_work(job, run_cli.store, tmp_path / "log") as command:
        ended = command.ended(since=command.signal_group(number), timeout_s=START_S)
        assert job.says in ended.said
        ended_well_by(command, run_cli, job, ended)
    sys.stdout.write(f"{name}, {number.name}: ended in {ended.seconds:.1f} s\n")


@pytest.mark.parametrize("name", ["distill", "evaluate"])
def test_command__whose_reader_is_killed_ends_in_seconds_and_names_the_image(
    name: str, jobs: dict[str, Job], run_cli: Cli, tmp_path: Path
) -> None:
    job = jobs[name]
    with at_work(job, run_cli.store, tmp_path / "log") as command:
        wait_for_processes(command, lambda: command.readers)
        time.sleep(0.5)  # until it reads
        os.kill(command.readers[-1], signal.SIGKILL)
        ended = command.ended(since=time.monotonic(), timeout_s=START_S)
        assert "The processes that read images must stay alive" in ended.said
        assert re.search(r"Last opened there: images/\d\d\d\.jpg", ended.said)
        if name == "evaluate" and not ended.status:
            return  # another task of the evaluation asked for the same images, and got them
        ended_well_by(command, run_cli, replace(job, keeps="*/*/artifact.json", resumes=""), ended, status=1)
    sys.stdout.write(f"{name}, a reader killed: ended in {ended.seconds:.1f} s\n")


@pytest.mark.parametrize("name", ["distill", "encode-teacher on two devices", "evaluate"])
def test_command__that_is_killed_leaves_no_process_behind(
    name: str, jobs: dict[str, Job], run_cli: Cli, tmp_path: Path
) -> None:
    """As kill -9 and the kernel do where memory runs out: nothing of the command can tidy up."""
    with at_work(jobs[name], run_cli.store, tmp_path / "log") as command:
        wait_for_processes(command, lambda: command.all[1:] if "encode" in name else command.readers)
        os.kill(command.process.pid, signal.SIGKILL)
        command.ended(since=time.monotonic(), timeout_s=START_S)
        assert not command.left_over(timeout_s=SECONDS)


def test_distill__whose_every_process_gets_sigterm_saves_where_it_stands(
    jobs: dict[str, Job], run_cli: Cli, tmp_path: Path
) -> None:
    """As a scheduler does that knows no groups: the readers end with the command."""
    job = jobs["distill"]
    with at_work(job, run_cli.store, tmp_path / "log") as command:
        for process in command.all:
            os.kill(process, signal.SIGTERM)
        ended = command.ended(since=time.monotonic(), timeout_s=START_S)
        assert job.says in ended.said
        ended_well_by(command, run_cli, job, ended)
