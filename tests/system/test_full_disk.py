"""The real stages on a disk that refuses something: an error that says what to do, and nothing lost."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from failing_disk import FailingDisk
from workbench import DISTILL, Cli, Pairs, counted_captions

from pipeline.commands.artifacts import artifact_problems
from pipeline.store.store import Store


def refuse_each(cli: Cli, words: tuple[object, ...], *, stage: str, every: int, tmp_path: Path) -> int:
    """Let every so-manieth call on the disk fail, each time on a fresh copy of the store; how many did."""
    ready = tmp_path / "ready"
    shutil.copytree(cli.store, ready) if cli.store.exists() else ready.mkdir()
    expected = cli(*words)["digest"]
    num_failed = 0
    while True:
        shutil.rmtree(cli.store)
        shutil.copytree(ready, cli.store)
        disk = FailingDisk(cli.store / stage, nth=1 + every * num_failed, code=errno.ENOSPC)
        with disk.in_place():
            done = cli.run(*words)
        if not disk.failed:
            return num_failed
        num_failed += 1
        if done.exit_code:
            assert "Free some space" in done.stderr, disk.failed
            assert "Traceback" not in done.stderr
        for artifact in Store(cli.store).artifacts():
            assert artifact_problems(artifact) == {}, disk.failed
        assert cli(*words)["digest"] == expected, disk.failed


slow = pytest.mark.slow
EVALUATION = ("image-embeddings", "caption-embeddings", "measurements", "evaluate")


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=slow)])
def test_encode__survives_a_disk_that_is_full_at_any_moment(
    every: int, run_cli: Cli, write_manifest: Callable[..., Path], word_vectors: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(counted_captions(600))
    words = ("encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--shard-rows", 256)
    assert refuse_each(run_cli, words, stage="encode-teacher", every=every, tmp_path=tmp_path) > 1


@pytest.mark.parametrize("every", [23, pytest.param(1, marks=slow)])
def test_distill__survives_a_disk_that_is_full_at_any_moment(
    every: int, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    words = (*DISTILL, "--save-every-minutes", 1e-9)
    assert refuse_each(run_cli, words, stage="distill", every=every, tmp_path=tmp_path) > 1


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=slow)])
def test_prototypes__survive_a_disk_that_is_full_at_any_moment(
    every: int, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    words = ("prototypes", "--num-prototypes", 4, "--device", "cpu")
    assert refuse_each(run_cli, words, stage="prototypes", every=every, tmp_path=tmp_path) > 2


@pytest.mark.parametrize("every", [37, pytest.param(1, marks=slow)])
@pytest.mark.parametrize("stage", EVALUATION)
def test_evaluate__survives_a_disk_that_is_full_at_any_moment(
    stage: str,
    every: int,
    trained: dict[str, Any],
    encoded_session: tuple[Path, Pairs],
    run_cli: Cli,
    tmp_path: Path,
) -> None:
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", encoded_session[1].manifest)
    assert refuse_each(run_cli, words, stage=stage, every=every, tmp_path=tmp_path) > 0
