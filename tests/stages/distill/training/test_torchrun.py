"""Real processes under a real torchrun: they end where one process ends, and together when one of them fails."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from features import make_features
from workbench import SMALL, Cli, Pairs, on_ranks

from data_schemas.images.student_checkpoint import WEIGHTS_NAME
from data_schemas.pair_index import read_rejected

ROOT = Path(__file__).parents[4]
ENDED_S = 30.0
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
# Neither noise nor dropout, which each process draws for its own part of a batch.
HEAD = (
    *(
        "distill",
        "--preset",
        "plain",
        "--batch-size",
        8,
        "--warmup-steps",
        0,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--epochs",
        2,
    ),
    *("--head", "mlp", "--head-width", 12, "--sync-batchnorm", "--validation-fraction", 0.2, "--eps", 0.01),
    *("--loss", "infonce=1", "--loss", "siglip=0.1", "--loss", "structure=1", "--balance", 0.5),
    *("--loss-option", "infonce.merge-images=true", "--loss-option", "siglip.spare-above=0.9"),
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

ONE_RANK_IS_ODD = """
import os, signal, sys, time
from pathlib import Path
from stages.distill.training.step import TrainingStep
import cli

if os.environ["RANK"] == "1":
    what, moment = sys.argv.pop(1), Path(sys.argv.pop(1))
    if what == "sees other images":
        sys.argv += ["--image-root", sys.argv[sys.argv.index("--image-root") + 1] + "-other"]
    plain = TrainingStep.update
    def update(step, lr):
        moment.write_text(str(time.time()))
        if what == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "is stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "hangs":
            time.sleep(3600)
        if what == "is slow":
            time.sleep(2)
        return plain(step, lr)
    TrainingStep.update = update
else:
    del sys.argv[1:3]
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


def test_torchrun__trains_a_head_on_features_as_one_process_does(
    encoded: Pairs, run_cli: Cli, store: Path, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(24, 10)).astype(np.float16)
    features = make_features(store, encoded.images, values)
    words = (*HEAD, "--features", features.path)
    other = Cli(shutil.copytree(store, tmp_path / "other"))
    finished = torchrun(*words, store=store)
    assert finished.returncode == 0, finished.stderr
    alone, together = other(*words), run_cli(*words)
    assert together["status"] == "unchanged"
    assert together["counts"] == alone["counts"]
    expected = safetensors.torch.load_file(Path(alone["path"]) / WEIGHTS_NAME)
    for name, tensor in safetensors.torch.load_file(Path(together["path"]) / WEIGHTS_NAME).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


def test_torchrun__makes_features_once(encoded: Pairs, run_cli: Cli, store: Path, backbone_weights: Path) -> None:
    backbone = ("--student", "squeezenet1_1", "--image-size", 32, "--init-from", backbone_weights)
    words = (*HEAD, "--features", "auto", *backbone)
    finished = torchrun(*words, store=store)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("encode-images: made") == 1
    assert run_cli(*words)["status"] == "unchanged"


def test_torchrun__ends_all_processes_when_one_fails(encoded: Pairs, run_cli: Cli, store: Path, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(FAILS_ON_THE_SECOND_RANK)
    finished = torchrun(*TRAIN, store=store, script=script)
    assert finished.returncode != 0
    assert "the second process broke, as the test wants it" in finished.stderr
    assert "Another process of this run has ended" in finished.stderr
    assert not list((store / "distill").glob("[!.]*"))
    assert run_cli(*TRAIN)["status"] == "created"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("is killed", "Another process of this run has ended, or does not answer"),
        ("is stopped", "Process 1 of this run ("),
        ("hangs", "Another process of this run has ended, or does not answer"),
        ("sees other images", "Every process of distill must see the same options and inputs"),
        ("is slow", "distill created"),
    ],
)
def test_torchrun__with_a_rank_that_is_odd_ends_in_time_and_says_why(
    what: str, said: str, encoded: Pairs, store: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(encoded.root, tmp_path / "own")
    other = shutil.copytree(encoded.root, tmp_path / "own-other")
    shutil.copyfile(other / encoded.images[1], other / encoded.images[0])
    script, moment = tmp_path / "odd.py", tmp_path / "moment"
    script.write_text(ONE_RANK_IS_ODD)
    patience = ("--step-timeout-minutes", 0.1) if what == "hangs" else ()
    finished = torchrun(what, moment, *TRAIN, "--image-root", own, *patience, store=store, script=script)
    assert said in finished.stderr + finished.stdout
    assert (finished.returncode == 0) == (what == "is slow")
    if what in ("is killed", "is stopped"):
        assert time.time() - float(moment.read_text()) < ENDED_S
