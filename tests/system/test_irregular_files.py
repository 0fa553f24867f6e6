"""A pipe in the place of any file that a user names ends the command at once, with the path in the message."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workbench import Cli, Pairs, make_bert, make_pairs, make_word_vectors

PATIENCE_S = 20.0
Words = Callable[[Path, Pairs, Path], tuple[object, ...]]


@contextmanager
def pipe_at(path: Path) -> Iterator[Path]:
    """Make a pipe in a file's place; who waits for it is released in the end, so that no test hangs."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    is_released = threading.Event()

    def release() -> None:
        is_released.set()
        for _ in range(100):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return

    timer = threading.Timer(PATIENCE_S, release)
    timer.start()
    try:
        yield path
    finally:
        timer.cancel()
    assert not is_released.is_set(), f"{path} was waited for"


def encode(manifest: object, teacher: object) -> tuple[object, ...]:
    return ("encode-teacher", "--manifest", manifest, "--teacher", teacher)


@pytest.mark.parametrize("name", ["p.tsv", "p.csv", "p.tsv.gz", "p.jsonl", "p.parquet", "p.tar", "p.arrow", "p.json"])
def test_manifest__that_is_a_pipe_is_refused(name: str, run_cli: Cli, tmp_path: Path) -> None:
    words = make_word_vectors(tmp_path / "words.txt")
    with pipe_at(tmp_path / name) as path:
        result = run_cli.run(*encode(path, words))
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["words.txt", "words", "words.gz"])
def test_teacher__that_is_a_pipe_is_refused(name: str, run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 2, 16)
    with pipe_at(tmp_path / name) as path:
        result = run_cli.run(*encode(pairs.manifest, path))
    assert result.exit_code == 1
    assert f"--teacher must name a folder or a file; got {path}, which is no regular file" in result.stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "README.md", "extra.json"])
def test_teacher__with_a_pipe_in_its_folder_is_refused(name: str, run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 2, 16)
    folder = make_bert(tmp_path / "bert", seed=0)
    inside = next(folder.rglob(name), folder / name)
    with pipe_at(inside):
        result = run_cli.run(*encode(pairs.manifest, folder))
    assert result.exit_code == 1
    assert f"{inside} must be a file; got no regular file" in result.stderr


@pytest.mark.parametrize("command", [("run",), ("encode-teacher", "--config")])
@pytest.mark.parametrize("name", ["run.toml", "run.yaml"])
def test_config__that_is_a_pipe_is_refused(command: tuple[str, ...], name: str, run_cli: Cli, tmp_path: Path) -> None:
    with pipe_at(tmp_path / name) as path:
        result = run_cli.run(*command, path)
    assert result.exit_code == 1
    assert f"{path} must be a readable file in UTF-8" in result.stderr


def test_images__that_are_pipes_are_rejected(run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 4, 16)
    run_cli(*encode(pairs.manifest, make_word_vectors(tmp_path / "words.txt")))
    with pipe_at(pairs.root / pairs.images[1]):
        result = run_cli.run("distill", "--epochs", 1, "--batch-size", 2, "--image-size", 32, "--device", "cpu")
    assert result.exit_code == 1
    assert pairs.images[1] in result.stderr


def test_initial_weights__that_are_a_pipe_are_refused(run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 4, 16)
    run_cli(*encode(pairs.manifest, make_word_vectors(tmp_path / "words.txt")))
    with pipe_at(tmp_path / "weights.safetensors") as path:
        result = run_cli.run("distill", "--init-from", path)
    assert result.exit_code == 1
    assert f"--init-from must name a file of weights; got {path}" in result.stderr


@pytest.mark.parametrize("option", ["--retrieval", "--sts"])
def test_evaluation_captions__that_are_a_pipe_are_refused(option: str, run_cli: Cli, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs", 4, 16)
    run_cli(*encode(pairs.manifest, make_word_vectors(tmp_path / "words.txt")))
    run_cli("distill", "--epochs", 1, "--batch-size", 2, "--image-size", 32, "--device", "cpu", "--workers", 0)
    with pipe_at(tmp_path / "captions.tsv") as path:
        result = run_cli.run("evaluate", option, path)
    assert result.exit_code == 1
    assert f"{path} must be a file; got no regular file" in result.stderr
