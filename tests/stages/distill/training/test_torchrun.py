"""Real processes under a real torchrun: they end where one process ends, and together when one of them fails."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from workbench import SMALL, Cli, Pairs, on_ranks

from data_schemas.pair_index import read_rejected
from data_schemas.student_checkpoint import WEIGHTS_NAME

ROOT = Path(__file__).parents[4]
RECIPE = ("--loss", "infonce=1", "--loss", "proto-rkd=0.5", "--loss-option", "proto-rkd.num-prototypes=4")
TRAIN = ("distill", *SMALL, "--precision", "fp32", "--epochs", 2, "--lr", 1e-3, *RECIPE)
# A large epsilon keeps AdamW from turning the rounding of gradients near 0 into steps of full length; small steps keep
# what is left of it small, for a batch of 8 is normalised by variances near 0.
SYNCED = (
    *TRAIN,
    "--student",
    "resnet18",
    "--sync-batchnorm",
    "--validation-fraction",
    0.2,
    "--eps",
    0.01,
    "--lr",
    1e-4,
)

FAILS_ON_THE_SECOND_RANK = """
import os
from data_schemas.errors import ProtoRKDError
from stages.distill.training.step import TrainingStep
import cli

if os.environ["RANK"] == "1":
    def update(step, lr):
        raise ProtoRKDError("the second process broke, as the test wants it")
    TrainingStep.update = update
cli.main()
"""


def torchrun(*words: object, store: Path, script: Path = ROOT / "cli.py", num_processes: int = 2) -> Any:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, str(script), *map(str, words), "--store", str(store)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_torchrun__ends_where_one_process_ends(encoded: Pairs, run_cli: Cli, store: Path, tmp_path: Path) -> None:
    own = shutil.copytree(encoded.root, tmp_path / "own")
    (own / encoded.images[3]).write_bytes(b"no image")
    words = (*SYNCED, "--image-root", own, "--max-bad-fraction", 0.1)
    other = Cli(shutil.copytree(store, tmp_path / "other"))
    finished = torchrun(*words, store=store)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("distill created") == 1
    again = on_ranks(2, lambda _: run_cli.run(*words).stdout, meet=contextlib.nullcontext)
    assert [said.count("distill unchanged") for said in again] == [1, 0]
    alone, together = other(*words), run_cli(*words)
    assert together["fingerprint"] == alone["fingerprint"]
    assert together["counts"] == alone["counts"]
    assert [rejection.value for rejection in read_rejected(Path(together["path"]))] == [encoded.images[3]]
    expected = safetensors.torch.load_file(Path(alone["path"]) / WEIGHTS_NAME)
    for name, tensor in safetensors.torch.load_file(Path(together["path"]) / WEIGHTS_NAME).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3)


def test_torchrun__ends_all_processes_when_one_fails(encoded: Pairs, run_cli: Cli, store: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(FAILS_ON_THE_SECOND_RANK)
    finished = torchrun(*TRAIN, store=store, script=script)
    assert finished.returncode != 0
    assert "the second process broke, as the test wants it" in finished.stderr
    assert "Another process of this run has ended" in finished.stderr
    assert not list((store / "distill").glob("[!.]*"))
    assert run_cli(*TRAIN)["status"] == "created"
