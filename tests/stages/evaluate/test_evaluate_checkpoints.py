"""Evaluation of all checkpoints, and beside a distillation that runs: real processes, with time limits."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, wait_for

from data_schemas.evaluation_report import read_report
from data_schemas.per_query_results import outcomes_folder, read_outcomes

ROOT = Path(__file__).parents[3]
EVALUATE = ("evaluate", "--device", "cpu", "--workers", 0, "--num-resamples", 100, "--no-overlap")
TIMEOUT_S = 240

# Distills, and after an epoch waits for as long as something holds.
WAITS = """
import sys, time
from pathlib import Path
from stages.distill.training.loop import Training
import cli

finish_epoch, store = Training._finish_epoch, Path(sys.argv[-1])

def wait(training, epoch):
    kept = finish_epoch(training, epoch)
    while CONDITION:
        time.sleep(0.05)
    return kept

Training._finish_epoch = wait
cli.main()
"""

# Can be interrupted, also where the tests run in the background, in which a shell lets Ctrl-C be ignored.
CAN_BE_INTERRUPTED = """
import signal
import cli

signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""


@pytest.fixture
def pairs(encoded_session: tuple[Path, Pairs]) -> Pairs:
    """Return the 24 images that the student was trained on."""
    return encoded_session[1]


def test_evaluate__measures_all_checkpoints_with_a_row_each(trained: Any, pairs: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*EVALUATE, "--retrieval", pairs.manifest, "--checkpoints", "all")
    folder = Path(outcome["path"])
    report = read_report(folder)
    assert [each["name"] for each in report["checkpoints"]] == ["epoch_1", "epoch_2"]
    assert report["student"]["checkpoint"] == "epoch_2"
    assert report["metrics"] == report["checkpoints"][1]["metrics"] == outcome["metrics"]
    assert report["checkpoints"][0]["metrics"] != report["metrics"]
    rows = list(csv.DictReader((folder / "evaluation_metrics_all.csv").read_text().splitlines()))
    assert [row["checkpoint"] for row in rows] == ["epoch_1", "epoch_2"]
    assert float(rows[1]["pairs/mean_recall"]) == pytest.approx(outcome["metrics"]["pairs/mean_recall"])
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} >= {"zeroshot_retrieval"}
    for name in ("epoch_1", "epoch_2"):
        assert {each.task for each in read_outcomes(folder / outcomes_folder(name))} == {
            "text_to_image",
            "image_to_text",
        }
    assert "<svg" in (folder / "report.html").read_text()


def test_evaluate__of_all_checkpoints_takes_over_what_was_measured_of_one(
    trained: Any, pairs: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli(*EVALUATE, "--retrieval", pairs.manifest, "--checkpoints", "1")
    run_cli(*EVALUATE, "--retrieval", pairs.manifest)
    import stages.evaluate.tasks.registry

    monkeypatch.setattr(stages.evaluate.tasks.registry, "TASKS", {})
    outcome = run_cli(*EVALUATE, "--retrieval", pairs.manifest, "--checkpoints", "all")
    assert (outcome["status"], outcome["counts"]["checkpoints"]) == ("created", 2)


def test_evaluate__compares_two_of_its_checkpoints(trained: Any, pairs: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*EVALUATE, "--retrieval", pairs.manifest, "--checkpoints", "all")
    name = outcome["fingerprint"][:12]
    compared = run_cli.run("compare", f"{name}@epoch_1", f"{name}@epoch_2", "--json")
    assert compared.exit_code == 0, compared.output
    assert "pairs/text_to_image/recall@10" in compared.stdout


def test_watch__measures_checkpoints_while_distill_runs_and_ends_with_it(
    start: Any, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    script = tmp_path / "waits.py"
    measured = 'list(store.glob("measurements/[!.]*/artifact.json"))'
    script.write_text(WAITS.replace("CONDITION", f"epoch == 2 and not {measured}"))
    training = start(*DISTILL, "--epochs", 4, script=script)
    wait_for(training, run_cli.store, "distill/.draft-*/journal.jsonl")
    watched = run_cli.run(*EVALUATE, "--retrieval", encoded.manifest, "--checkpoints", "all", "--watch", "--json")
    _, trained_errors = training.communicate(timeout=TIMEOUT_S)
    assert training.returncode == 0, trained_errors
    assert watched.exit_code == 0, watched.stderr
    outcome = json.loads(watched.stdout.splitlines()[-1])
    assert [each["epoch"] for each in read_report(Path(outcome["path"]))["checkpoints"]] == [1, 2, 3, 4]
    assert "evaluate: watching distill" in watched.stderr
    assert "epoch_1: pairs/mean_recall" in watched.stderr


def test_watch__loses_nothing_when_it_is_interrupted_and_says_that_a_distillation_was_stopped(
    start: Any, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    """Two facts about one distillation, which takes long to start; it stands still after two epochs and after three."""
    script, held = tmp_path / "interrupted.py", tmp_path / "held.py"
    script.write_text(CAN_BE_INTERRUPTED)
    held.write_text(WAITS.replace("CONDITION", 'epoch == 2 and not (store / ".go-on").exists() or epoch == 3'))
    training = start(*DISTILL, "--epochs", 4, script=held)
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--checkpoints", "all", "--watch")
    wait_for(training, run_cli.store, "distill/.draft-*/checkpoints/epoch_1.safetensors")
    watching = start(*words, script=script)
    wait_for(watching, run_cli.store, "measurements/[!.]*/artifact.json")
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode != 0
    assert "Traceback" not in errors
    assert "whole" in run_cli.run("verify").stdout
    (run_cli.store / ".go-on").touch()
    wait_for(training, run_cli.store, "distill/.draft-*/checkpoints/epoch_2.safetensors")
    training.kill()
    training.wait()
    measured = set(run_cli.store.glob("measurements/[!.]*"))
    assert "it was stopped" in run_cli.fails(*words)
    assert set(run_cli.store.glob("measurements/[!.]*")) > measured


def test_watch__must_go_with_all_checkpoints(trained: Any, pairs: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*EVALUATE, "--retrieval", pairs.manifest, "--watch")
    assert "--checkpoints all" in message


def test_watch__of_a_finished_student_evaluates_it(trained: Any, pairs: Pairs, run_cli: Cli) -> None:
    words = (*EVALUATE, "--retrieval", pairs.manifest, "--checkpoints", "all")
    assert run_cli(*words, "--watch")["fingerprint"] == run_cli(*words)["fingerprint"]


def test_evaluate__under_torchrun_gives_what_one_process_gives(
    trained: Any, pairs: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    own = shutil.copytree(pairs.root, tmp_path / "own")
    (own / pairs.images[3]).write_bytes(b"no image")
    other = Cli(shutil.copytree(run_cli.store, tmp_path / "other"))
    words = (*EVALUATE, "--retrieval", own / "pairs.tsv", "--checkpoints", "all", "--max-bad-fraction", 0.1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    finished = subprocess.run(
        [*torchrun, str(ROOT / "cli.py"), *map(str, words), "--store", str(run_cli.store), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    [line] = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    together, alone = json.loads(line), other(*words)
    assert together["fingerprint"] == alone["fingerprint"]
    assert together["counts"] == alone["counts"]
    assert together["metrics"] == pytest.approx(alone["metrics"], rel=1e-4, abs=1e-4)


HANGS_ON_THE_SECOND_RANK = """
import functools, os, time
from stages.components.compute import hang_watch
from stages.components.student.embedder import ImageEmbedder
from stages.evaluate.embeddings import image_pass
import cli

image_pass.HangWatch = functools.partial(hang_watch.HangWatch, look_s=0.1, looks=20)
if os.environ["RANK"] == "1":
    ImageEmbedder.__call__ = lambda *_: time.sleep(3600)
cli.main()
"""


@pytest.mark.slow
def test_evaluate__under_torchrun_ends_where_a_process_hangs(
    trained: Any, pairs: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS_ON_THE_SECOND_RANK)
    words = (*EVALUATE, "--retrieval", pairs.manifest, "--store", run_cli.store)
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, *map(str, words)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert finished.returncode != 0
    assert "must be done with a batch within 0 minutes, for others wait for it; it hangs" in finished.stderr
    assert "Another process of this run has ended" in finished.stderr
    assert run_cli(*words)["status"] == "created"
