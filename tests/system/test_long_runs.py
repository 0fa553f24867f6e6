"""What a run has taken it gives back, and its memory does not grow with the work; at length by `long_runs`."""

import gc
from pathlib import Path

import pytest
from processes import abandoned_memory, abandoned_since, own_files
from workbench import DISTILL, Cli, Pairs

from tests.support.long_runs import Watched, distillation, encodings

# MB for 1,000 captions or steps, and file descriptors: what allocators and the odd sample make of none.
MOST_MB_ROWS, MOST_MB_STEPS, MOST_FILES = 0.05, 4.0, 3.0


def test_distill__gives_back_files_and_shared_memory(encoded: Pairs, run_cli: Cli) -> None:
    run_cli(*DISTILL, "--workers", 1, "--epochs", 1)  # which starts the server of readers
    gc.collect()
    files, memory = own_files(), abandoned_memory()
    run_cli(*DISTILL, "--workers", 1, "--validation-fraction", 0.3)
    gc.collect()
    left = {name.partition(" ")[2] for name in own_files() - files}
    assert not {name for name in left if not name.startswith("pipe:")}
    assert len(own_files()) <= len(files)
    assert not abandoned_since(memory)


@pytest.mark.slow
def test_encode__of_200_000_captions_keeps_its_memory(tmp_path: Path) -> None:
    for name, watched in encodings(tmp_path, rows=200_000):
        hold(name, watched, most_mb=MOST_MB_ROWS)


@pytest.mark.slow
def test_distill__of_2_000_steps_keeps_its_memory(tmp_path: Path) -> None:
    for name, watched in distillation(tmp_path, steps=2000):
        hold(name, watched, most_mb=MOST_MB_STEPS)


def hold(name: str, watched: Watched, *, most_mb: float) -> None:
    assert len(watched.warm()) > 10, name
    assert watched.memory_slope() < most_mb, name
    assert watched.file_slope() < MOST_FILES, name
    assert not watched.left, name
