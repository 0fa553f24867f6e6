"""Many processes on one store: one makes, the others reuse; what differs does not meet; a dead holder holds nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy_stage
from click.testing import CliRunner
from toy_stage import CHILD, TOY, ToyInputs, ToyParams, ToyRuntime, run_toy

from pipeline.commands.artifacts import artifact_problems, gc
from pipeline.maintenance.garbage import find_garbage
from pipeline.runner import context_of, run_stage, run_within
from pipeline.store.store import HOLDER_PREFIX, LOCK_PREFIX

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60

pytestmark = pytest.mark.usefixtures("quiet_log")


def start(toy, source=None, *, pause_s=0.02):
    words = [sys.executable, toy_stage.__file__, str(toy.store.root), str(source or toy.source), str(pause_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def outcome_of(process):
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


def test_race__of_eight_with_the_same_work_has_one_maker(toy):
    outcomes = [outcome_of(process) for process in [start(toy) for _ in range(8)]]
    assert sorted(outcome["status"] for outcome in outcomes) == ["created"] + 7 * ["unchanged"]
    assert len({outcome["digest"] for outcome in outcomes}) == 1
    [artifact] = toy.store.artifacts()
    assert artifact_problems(artifact) == {}
    assert list(toy.store.leftovers()) == []


def test_race__of_eight_with_different_work_makes_eight_artifacts(toy, tmp_path):
    sources = [tmp_path / f"{number}.txt" for number in range(8)]
    for number, source in enumerate(sources):
        source.write_text(f"word {number}")
    outcomes = [outcome_of(process) for process in [start(toy, source) for source in sources]]
    assert {outcome["status"] for outcome in outcomes} == {"created"}
    artifacts = toy.store.artifacts()
    assert len(artifacts) == 8
    assert all(artifact_problems(artifact) == {} for artifact in artifacts)


def test_race__with_gc_takes_nothing_from_a_run(toy):
    """While processes make artifacts and others are made from them, gc runs over and over."""
    runs = [start(toy, pause_s=0.3) for _ in range(2)]
    num_rounds = 0
    while any(run.poll() is None for run in runs):
        assert CliRunner().invoke(gc, ["--yes", "--store", str(toy.store.root)], obj=(TOY, CHILD)).exit_code == 0
        num_rounds += 1
    assert num_rounds > 5
    assert {outcome_of(run)["status"] for run in runs} == {"created", "unchanged"}
    [artifact] = toy.store.artifacts()
    assert artifact_problems(artifact) == {}


def test_gc__leaves_alone_what_a_run_has_made_on_its_way(toy):
    """A stage that asks for a toy, and finds it in use while it works; afterwards nothing refers to it."""
    seen = []

    def run(params, sources, out, runtime, context):
        options = {"params": ToyParams(), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
        inner = run_within(replace(TOY, name="inner"), **options, context=context).artifact
        run_within(replace(TOY, name="inner"), **(options | {"params": ToyParams(scale=2.0)}), context=context)
        seen.append((inner.path, find_garbage(toy.store, kept_stages=["outer"])))
        return run_toy(params, sources, out, runtime, context)

    options = {"params": ToyParams(scale=3.0), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
    run_stage(replace(TOY, name="outer", run=run), **options, context=context_of(toy.store))
    [(inner, during)] = seen
    assert during == []
    assert find_garbage(toy.store, kept_stages=["outer"]) == [inner]


def test_lock__of_a_dead_process_is_taken_over(toy):
    process = start(toy, pause_s=5.0)
    deadline = time.monotonic() + TIMEOUT_S
    while not list(toy.store.root.glob(f"toy/{HOLDER_PREFIX}*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert list(toy.store.root.glob(f"toy/{LOCK_PREFIX}*"))
    before = time.monotonic()
    assert toy.run().status == "created"
    assert time.monotonic() - before < 5.0
