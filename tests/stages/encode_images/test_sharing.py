"""encode-images on several devices and under torchrun: the bytes of one process, whoever is killed on the way."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from processes import ROOT
from workbench import FEATURES, Cli, draw_image, on_ranks

from data_schemas.artifact_record import JOURNAL_NAME
from data_schemas.pair_index import read_rejected

TWO = ("--device", "cpu,cpu")
NUM = 560  # images, in three shards
TIMEOUT_S = 240.0
JOURNALS = f"encode-images/.draft-*/{JOURNAL_NAME}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distinct images, one of which cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for number in range(NUM):
        draw_image(root / f"{number:03}.png", f"rgb({number % 256}, {60 * (number // 256)}, 90)", "circle", 32)
    (root / "523.png").write_bytes(b"no image")
    return root


@pytest.fixture
def words(images: Path, backbone_weights: Path) -> tuple[object, ...]:
    asked = ("--images", images, "--shard-rows", 256, "--batch-size", 64, "--precision", "fp32")
    return (*FEATURES, "--init-from", backbone_weights, *asked)


@pytest.fixture
def alone(words: tuple[object, ...], tmp_path: Path) -> dict[str, Any]:
    """What one process makes of it."""
    return Cli(tmp_path / "alone")(*words)


def test_encode_images__on_two_devices_gives_the_bytes_of_one(
    words: tuple[object, ...], run_cli: Cli, alone: dict[str, Any]
) -> None:
    outcome = run_cli(*words, *TWO)
    assert (outcome["fingerprint"], outcome["digest"]) == (alone["fingerprint"], alone["digest"])
    assert outcome["counts"] == alone["counts"]
    assert [each.value for each in read_rejected(Path(outcome["path"]))] == ["523.png"]
    assert not multiprocessing.active_children()
    assert run_cli.run("verify").exit_code == 0


@pytest.mark.slow
def test_encode_images__on_two_devices_takes_over_what_is_known(
    images: Path, words: tuple[object, ...], run_cli: Cli, alone: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "few")
    for number in range(300, NUM):
        (tmp_path / f"few/{number:03}.png").unlink()
    few = (*words, "--images", tmp_path / "few")
    run_cli(*few)
    outcome = run_cli(*words, *TWO)
    assert outcome["digest"] == alone["digest"]
    assert (outcome["counts"]["reused_rows"], outcome["counts"]["encoded_rows"]) == (300, NUM - 300)
    assert run_cli(*few, "--precision", "bf16", *TWO)["metrics"]["fp32_cosine_images"] == 16


@pytest.mark.slow
def test_encode_images__goes_on_from_what_a_killed_process_left(
    words: tuple[object, ...], run_cli: Cli, alone: dict[str, Any]
) -> None:
    def kill_one() -> None:
        while not any("features.zarr/c/" in path.read_text() for path in run_cli.store.glob(JOURNALS)):
            time.sleep(0.002)
        [*_, child] = [each.pid for each in multiprocessing.active_children()]
        os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    ended = run_cli.run(*words, *TWO)
    killer.join()
    assert ended.exit_code == 1
    assert "The processes that embed images on cpu, cpu must stay alive; one has ended" in ended.stderr
    outcome = run_cli(*words, *TWO)
    assert outcome["counts"]["resumed_rows"] >= 256
    assert outcome["digest"] == alone["digest"]


@pytest.mark.slow
def test_encode_images__on_two_devices_counts_the_unreadable_of_both(
    images: Path, words: tuple[object, ...], run_cli: Cli, tmp_path: Path
) -> None:
    own = shutil.copytree(images, tmp_path / "own")
    (own / "001.png").write_bytes(b"no image")
    (own / "300.png").write_bytes(b"no image")  # the second shard, which is the second process's
    message = run_cli.fails(*words, "--images", own, *TWO, "--max-bad-fraction", 2.5 / NUM)
    assert "got 3 of 560 that cannot" in message
    assert run_cli(*words, "--images", own, *TWO)["counts"]["rejected_images"] == 3


def test_encode_images__refuses_several_devices_in_each_of_several_processes(
    words: tuple[object, ...], run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.encode_images.stage.num_processes", lambda: 2)
    assert "--device must name 1 device; got cpu,cpu" in run_cli.fails(*words, *TWO)


def on_two_ranks(run_cli: Cli, *words: object) -> list[Result]:
    def run(_ranks: Any) -> tuple[int, str, str]:
        result = run_cli.run(*words, "--json")
        return result.exit_code, result.stdout, result.stderr

    return on_ranks(2, run, meet=contextlib.nullcontext)


def test_encode_images__by_two_ranks_gives_the_bytes_of_one(
    words: tuple[object, ...], run_cli: Cli, alone: dict[str, Any]
) -> None:
    first, second = on_two_ranks(run_cli, *words)
    assert (first[0], second[0]) == (0, 0), first[2]
    assert second[1] == ""
    outcome = json.loads(first[1])
    assert (outcome["fingerprint"], outcome["digest"]) == (alone["fingerprint"], alone["digest"])
    assert outcome["counts"] == alone["counts"]


def test_encode_images__fails_in_both_ranks_where_too_many_cannot_be_read(
    words: tuple[object, ...], run_cli: Cli
) -> None:
    for status, _, said in on_two_ranks(run_cli, *words, "--max-bad-fraction", 0):
        assert status == 1
        assert "got 1 of 560 that cannot" in said


KILLED_ONCE_A_SHARD_IS_WHOLE = """
import os, signal, sys, time
from pathlib import Path
from data_schemas.embedding_array import EmbeddingArray
import cli

if os.environ["RANK"] == RANK:
    real = EmbeddingArray.write
    def write(array, shard, values):
        if shard.start:
            while not any("zarr/c/" in path.read_text() for path in Path(sys.argv[-1]).glob(JOURNALS)):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        real(array, shard, values)
    EmbeddingArray.write = write
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_encode_images__under_torchrun_loses_the_shard_of_a_killed_process(
    words: tuple[object, ...], run_cli: Cli, alone: dict[str, Any], tmp_path: Path, rank: str
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        KILLED_ONCE_A_SHARD_IS_WHOLE.replace("JOURNALS", repr(JOURNALS)).replace("== RANK", f"== '{rank}'")
    )
    ended = torchrun(script, *words, store=run_cli.store)
    assert ended.returncode != 0
    finished = torchrun(ROOT / "cli.py", *words, "--json", store=run_cli.store)
    assert finished.returncode == 0, finished.stderr
    [line] = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    outcome = json.loads(line)
    assert (outcome["fingerprint"], outcome["digest"]) == (alone["fingerprint"], alone["digest"])
    assert outcome["counts"]["resumed_rows"] >= 256


def torchrun(script: Path, *words: object, store: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, str(script), *map(str, words), "--store", str(store)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
