"""Processes that are killed while they work: what they leave is absent or whole, and the next run ends the same."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, counted_captions, wait_for

from cli import STOPPED_STATUS

ROOT = Path(__file__).parents[2]
KILL_TIMEOUT_S = 240
LONG = (*DISTILL, "--epochs", 8, "--save-every-minutes", 1e-9)

slow = pytest.mark.slow


def kill_when(process: "subprocess.Popen[str]", store: Path, pattern: str) -> None:
    wait_for(process, store, pattern)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.fixture
def undisturbed_long(encoded_session: tuple[Path, Pairs], encoded: Pairs, tmp_path: Path) -> dict[str, Any]:
    other = Cli(tmp_path / "undisturbed")
    (other.store / "encode-teacher").parent.mkdir()
    (other.store / "encode-teacher").symlink_to(encoded_session[0] / "encode-teacher")
    return other(*LONG, "--save-every-minutes", 10)


def test_distill__that_is_killed_and_run_again_ends_with_the_same_digest(
    start: Any, undisturbed_long: dict[str, Any], run_cli: Cli
) -> None:
    kill_when(start(*LONG), run_cli.store, "distill/.draft-*/state/latest.safetensors")
    assert not list(run_cli.store.glob("distill/[!.]*"))
    resumed = run_cli.run(*LONG, "--json")
    assert "distill: going on from step" in resumed.stderr
    assert run_cli(*LONG)["digest"] == undisturbed_long["digest"]


@slow
def test_distill__that_is_killed_again_and_again_ends_with_the_same_digest(
    start: Any, undisturbed_long: dict[str, Any], run_cli: Cli
) -> None:
    for epoch in (1, 3, 6):
        kill_when(start(*LONG), run_cli.store, f"distill/.draft-*/checkpoints/epoch_{epoch}.safetensors")
    outcome = run_cli(*LONG)
    assert (outcome["status"], outcome["digest"]) == ("created", undisturbed_long["digest"])
    assert "whole" in run_cli.run("verify").stdout


@slow
def test_distill__that_is_asked_to_stop_exits_with_a_status_of_its_own_and_goes_on_later(
    start: Any, undisturbed_long: dict[str, Any], run_cli: Cli
) -> None:
    process = start(*LONG)
    wait_for(process, run_cli.store, "distill/.draft-*/state/latest.safetensors")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=KILL_TIMEOUT_S)
    assert process.returncode == STOPPED_STATUS
    assert "distill was asked to stop and did" in stderr
    assert "Traceback" not in stderr
    assert run_cli(*LONG)["digest"] == undisturbed_long["digest"]


@slow
def test_distill__of_two_processes_with_the_same_work_the_second_waits(
    start: Any, undisturbed_long: dict[str, Any], run_cli: Cli
) -> None:
    first = start(*LONG)
    wait_for(first, run_cli.store, "distill/.draft-*/state/latest.safetensors")
    second = start(*LONG)
    outputs = [process.communicate(timeout=KILL_TIMEOUT_S) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "unchanged" in outputs[1][1]
    assert run_cli(*LONG)["digest"] == undisturbed_long["digest"]


@slow
@pytest.mark.parametrize("shard", [0, 5])
def test_encode__that_is_killed_and_run_again_redoes_no_whole_shard(
    shard: int, start: Any, run_cli: Cli, write_manifest: Callable[..., Path], bert_folder: Path, tmp_path: Path
) -> None:
    words = ("encode-teacher", "--manifest", write_manifest(counted_captions(5000)), "--teacher", bert_folder)
    words += ("--shard-rows", 256, "--batch-tokens", 64)
    kill_when(start(*words), run_cli.store, f"encode-teacher/.draft-*/embeddings.zarr/c/{shard}/0")
    assert not list(run_cli.store.glob("encode-teacher/[!.]*"))
    outcome = run_cli(*words)
    assert outcome["status"] == "created"
    assert 256 * shard <= outcome["counts"]["resumed_captions"] < 5000
    assert outcome["counts"]["encoded_captions"] == 5000 - outcome["counts"]["resumed_captions"]
    assert outcome["digest"] == Cli(tmp_path / "undisturbed")(*words)["digest"]


@slow
@pytest.mark.parametrize(
    "moment",
    [
        "evaluate/.draft-*",
        "image-embeddings/[!.]*/artifact.json",
        "caption-embeddings/.draft-*/embeddings.zarr/zarr.json",
    ],
)
def test_evaluate__that_is_killed_and_run_again_ends_with_the_same_digest(
    moment: str, start: Any, trained: dict[str, Any], encoded_session: tuple[Path, Pairs], run_cli: Cli, tmp_path: Path
) -> None:
    other = Cli(tmp_path / "undisturbed")
    shutil.copytree(run_cli.store, other.store)
    words = ("evaluate", "--device", "cpu", "--workers", 0, "--retrieval", encoded_session[1].manifest)
    undisturbed = other(*words)
    kill_when(start(*words), run_cli.store, moment)
    assert not list(run_cli.store.glob("evaluate/[!.]*"))
    outcome = run_cli(*words)
    assert (outcome["status"], outcome["digest"]) == ("created", undisturbed["digest"])
    assert "NOT WHOLE" not in run_cli.run("verify").stdout
