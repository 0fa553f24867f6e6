"""Watch long runs from outside: does memory grow with the work, are files and shared memory freed?

``python -m tests.support.long_runs --rows 200000 --steps 2000``: encodes so many captions and distils for so many
steps, each by a real command, and prints the slopes of its memory over the work, after a warm-up.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import scipy.stats

from tests.support.processes import Command, abandoned_memory, abandoned_since, started
from tests.support.workbench import Cli, counted_captions, make_bert, make_manifest, make_pairs, make_word_vectors

_POLL_S = 0.02
_WARM_UP = 0.5  # share of the work after which memory should stand
_SHARD_ROWS = 2048
_READERS = 2


@dataclass(frozen=True)
class Sample:
    """Measurements at one moment.

    Args:
        done: Rows or steps that are done.
        memory_mb: Resident memory of all processes, in MB.
        num_files: Open file descriptors of all processes.
    """

    done: int
    memory_mb: float
    num_files: int


@dataclass(frozen=True)
class Watched:
    """A command that ran to its end.

    Args:
        samples: Samples in order, one for each number of rows or steps that was seen.
        left: Names in shared memory that were not there before.
        seconds: Seconds from start to end.
    """

    samples: list[Sample]
    left: set[str]
    seconds: float

    def warm(self) -> list[Sample]:
        """Select the samples after the warm-up."""
        return [sample for sample in self.samples if sample.done >= _WARM_UP * self.samples[-1].done]

    def memory_slope(self) -> float:
        """MB for 1,000 rows or steps."""
        return _slope([(sample.done, sample.memory_mb) for sample in self.warm()])

    def file_slope(self) -> float:
        """File descriptors for 1,000 rows or steps."""
        return _slope([(sample.done, float(sample.num_files)) for sample in self.warm()])


def _slope(points: list[tuple[int, float]]) -> float:
    """Take the median of the slopes between all pairs: saving a state takes memory for a moment."""
    done, values = zip(*points, strict=True)
    return float(scipy.stats.theilslopes(values, done).slope * 1000)


def encodings(root: Path, *, rows: int) -> Iterator[tuple[str, Watched]]:
    """Encode distinct captions by a teacher of word vectors, and by a small transformer."""
    captions = counted_captions(rows)
    manifest = make_manifest(root / "rows.tsv", [f"{number}.jpg" for number in range(rows)], captions)
    teachers = {"word vectors": make_word_vectors(root / "words.txt"), "BERT": make_bert(root / "bert", seed=0)}
    for name, teacher in teachers.items():
        store = root / f"encoded by {name}"
        words = ("encode-teacher", "--manifest", manifest, "--teacher", teacher, "--shard-rows", _SHARD_ROWS)
        yield f"encode-teacher, {name}", watch(words, store, root / "log", done=partial(_rows_written, store))


def distillation(root: Path, *, steps: int) -> Iterator[tuple[str, Watched]]:
    """Distil a small student with processes that read."""
    pairs = make_pairs(root / "pictures", 64, 40)
    store, batch = root / "distilled", 8
    Cli(store)("encode-teacher", "--manifest", pairs.manifest, "--teacher", make_word_vectors(root / "few.txt"))
    words = ("distill", "--student", "resnet18", "--image-size", 32, "--batch-size", batch, "--workers", _READERS)
    words += ("--device", "cpu", "--epochs", -(-steps * batch // 64), "--save-every-epochs", 10**6)
    words += ("--log-every-steps", max(1, steps // 200))
    yield f"distill, {_READERS} readers", watch(words, store, root / "log", done=partial(_steps_taken, store))


def watch(words: tuple[object, ...], store: Path, log: Path, *, done: Callable[[], int]) -> Watched:
    """Run a command to its end, and sample it whenever it has made progress."""
    before, start, samples = abandoned_memory(), time.monotonic(), [Sample(0, 0.0, 0)]
    with started(*words, "--store", store, log=log) as command:
        while command.process.poll() is None:
            if (now := done()) > samples[-1].done:
                samples.append(_sample(command, now))
            time.sleep(_POLL_S)
        if command.process.returncode:
            raise SystemExit(command.said())
    seconds = time.monotonic() - start
    return Watched(samples[1:], abandoned_since(before), seconds)


def _sample(command: Command, done: int) -> Sample:
    return Sample(done, command.memory_mb(), command.num_files())


def _rows_written(store: Path) -> int:
    return _SHARD_ROWS * sum(1 for _ in store.glob("encode-teacher/.draft-*/embeddings.zarr/c/*/0"))


def _steps_taken(store: Path) -> int:
    """Read the step of the last line of metrics, each of which begins with it."""
    for path in store.glob("distill/.draft-*/logs/metrics.jsonl"):
        lines = path.read_text().splitlines()
        return int(lines[-1].split(":")[1].split(",")[0]) if lines else 0
    return 0


def main() -> None:
    """Watch, and print a line for each command."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="Captions to encode. 0: none.")
    parser.add_argument("--steps", type=int, default=2000, help="Steps to distil. 0: none.")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs: list[Iterator[tuple[str, Watched]]] = []
        runs += [encodings(root, rows=options.rows)] if options.rows else []
        runs += [distillation(root, steps=options.steps)] if options.steps else []
        for run in runs:
            for name, watched in run:
                sys.stdout.write(f"{name}: {describe(watched)}\n")
                sys.stdout.flush()


def describe(watched: Watched) -> str:
    """Write the figures of a run in one line."""
    warm = watched.warm()
    highest = max(sample.memory_mb for sample in watched.samples)
    return (
        f"{watched.samples[-1].done:,} in {watched.seconds:.0f} s, {len(warm)} samples after the warm-up: "
        f"{watched.memory_slope():+.3f} MB and {watched.file_slope():+.3f} files a thousand; from "
        f"{warm[0].memory_mb:.0f} to {warm[-1].memory_mb:.0f} MB, {highest:.0f} MB at most; from {warm[0].num_files} "
        f"to {warm[-1].num_files} files; {len(watched.left)} names left in shared memory"
    )


if __name__ == "__main__":
    main()
