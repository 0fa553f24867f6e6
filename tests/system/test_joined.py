"""What processes make together, of every stage that can be shared: the bytes and the counts of one that works alone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workbench import Cli, counted_captions, draw_image, make_manifest

from cli import STOPPED_STATUS
from pipeline.store.shards import Facts, JointShards
from pipeline.store.store import DRAFT_PREFIX, Store
from stages import STAGES

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 700

Words = tuple[object, ...]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw images, two of which cannot be read, in shards of their own."""
    root = tmp_path_factory.mktemp("joined") / "images"
    root.mkdir()
    for number in range(NUM_IMAGES):
        draw_image(root / f"{number:03}.jpg", f"hsl({number}, 80%, 50%)", ("circle", "square")[number % 2], 32)
    for number in (7, 650):
        (root / f"{number:03}.jpg").write_bytes(f"no image {number}".encode())
    return root


@pytest.fixture
def commands(tmp_path: Path, images: Path, word_vectors: Path) -> dict[str, Words]:
    """Return a command of three shards, by stage."""
    captions = counted_captions(700)
    manifest = make_manifest(tmp_path / "pairs.tsv", [f"{number}.jpg" for number in range(len(captions))], captions)
    return {
        "encode-teacher": (
            "encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--shard-rows", 256, "--device", "cpu"
        ),
        "pack": ("pack", "--images", images, "--workers", 0, "--shard-images", 256),
    }  # fmt: skip


def stop_after(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process be asked to stop once it has finished so many shards."""
    finished: list[int] = []
    finish = JointShards.finish

    def counted(queue: JointShards, number: int, facts: Facts) -> None:
        finish(queue, number, facts)
        finished.append(number)
        if len(finished) == num:
            raise KeyboardInterrupt

    monkeypatch.setattr(JointShards, "finish", counted)


def without_seconds(counts: dict[str, Any]) -> dict[str, Any]:
    return {name: count for name, count in counts.items() if "seconds" not in name}


@pytest.mark.parametrize("stage", ["encode-teacher", "pack"])
def test_joined__process_that_goes_on_from_another_s_shards_makes_what_one_makes(
    stage: str, commands: dict[str, Words], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = commands[stage]
    alone = Cli(tmp_path / "alone")(*words)
    joined = Cli(tmp_path / "joined")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        stopped = joined.run(*words, "--join")
    assert stopped.exit_code == STOPPED_STATUS, stopped.output
    assert len(list(joined.store.glob(f"{stage}/{DRAFT_PREFIX}*/joint/*/done/[0-9]"))) == 2
    made = joined(*words, "--join")
    assert (made["status"], made["digest"]) == ("created", alone["digest"])
    assert without_seconds(made["counts"]) == without_seconds(alone["counts"])
    assert list(Store(joined.store).leftovers()) == []
    assert joined.run("verify").exit_code == 0
    assert joined(*words)["status"] == "unchanged"


def test_join__is_an_option_of_the_stages_that_can_be_shared(commands: dict[str, Words], run_cli: Cli) -> None:
    assert {stage.name for stage in STAGES if stage.joinable} == set(commands)
    assert run_cli.run("distill", "--join").exit_code == 2


def test_join__goes_without_force(commands: dict[str, Words], run_cli: Cli) -> None:
    said = run_cli.fails(*commands["encode-teacher"], "--join", "--force")
    assert "--join must go without --force: each of the processes would begin anew." in said


@pytest.mark.parametrize(("words", "joins"), [((), True), (("--no-join",), False), (("--force",), False)], ids=str)
def test_join__is_the_default_of_one_of_many(
    words: Words, joins: bool, commands: dict[str, Words], run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    finished: list[int] = []
    real: Callable[..., None] = JointShards.finish
    monkeypatch.setattr(
        JointShards, "finish", lambda queue, number, facts: (finished.append(number), real(queue, number, facts))
    )
    run_cli(*commands["encode-teacher"], *words)
    assert sorted(finished) == ([0, 1, 2] if joins else [])


@pytest.mark.slow
def test_join__is_what_processes_of_torchrun_do(commands: dict[str, Words], store: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*map(str, commands["encode-teacher"]), "--store", str(store), "--json"]
    finished = subprocess.run(
        [*launcher, str(ROOT / "cli.py"), *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    alone = Cli(tmp_path / "alone")(*commands["encode-teacher"])
    assert finished.stdout.count(alone["digest"]) == 1
