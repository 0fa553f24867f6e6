"""Several processes make one artifact: the bytes of one, whoever dies or is stopped, and when."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy_stage
from toy_stage import TOY, ToyInputs, ToyParams, ToyRuntime, run_toy

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import artifact_problems
from pipeline.runner import context_of, run_stage
from pipeline.store.draft import Draft
from pipeline.store.leases import LEASE_VARIABLE
from pipeline.store.locks import is_held
from pipeline.store.store import DRAFT_PREFIX, HOLDER_PREFIX, Store

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 120
LEASE_S = 1.0
NUM_PARTS = 12

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    monkeypatch.setenv(LEASE_VARIABLE, str(LEASE_S))


@pytest.fixture
def alone(toy, tmp_path):
    """Digest of the same request, made by one process."""
    store, toy.store = toy.store, Store(tmp_path / "alone")
    artifact = toy.run(num_parts=NUM_PARTS).artifact
    toy.store = store
    return artifact.record.digest


def start(toy, *, pause_s=0.02, num_parts=NUM_PARTS):
    words = [sys.executable, toy_stage.__file__, str(toy.store.root), str(toy.source), str(pause_s), "", str(num_parts)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def outcome_of(process):
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


def wait_for(toy, pattern, *, num=1):
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(toy.store.root.glob(pattern))) < num:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def only_artifact(toy):
    """The store's one artifact, which is whole, and nothing else."""
    [artifact] = toy.store.artifacts()
    assert artifact_problems(artifact) == {}
    assert list(toy.store.leftovers()) == []
    assert not list(toy.store.root.glob(f"toy/{HOLDER_PREFIX}*"))
    return artifact


def test_joined__processes_make_the_bytes_of_one(toy, alone):
    outcomes = [outcome_of(process) for process in [start(toy, pause_s=0.2) for _ in range(3)]]
    assert sorted(outcome["status"] for outcome in outcomes) == ["created", "unchanged", "unchanged"]
    assert {outcome["digest"] for outcome in outcomes} == {alone}
    assert {outcome["counts"]["made"] for outcome in outcomes} == {NUM_PARTS}
    assert only_artifact(toy).record.digest == alone


def test_joined__one_process_makes_what_it_makes_alone(toy, alone):
    outcome = toy.run(num_parts=NUM_PARTS, join=True)
    assert (outcome.status, outcome.artifact.record.digest) == ("created", alone)
    assert toy.run(num_parts=NUM_PARTS, join=True).status == "unchanged"
    only_artifact(toy)


def test_joined__process_goes_on_from_what_one_alone_left(toy, alone):
    with pytest.raises(RuntimeError):
        toy.run(num_parts=NUM_PARTS, fail_after=5)
    artifact = toy.run(num_parts=NUM_PARTS, join=True).artifact
    assert (artifact.record.digest, artifact.record.counts["made"]) == (alone, NUM_PARTS - 5)
    only_artifact(toy)


def test_joined__run_is_gone_on_with_by_a_process_that_was_not_told_to(toy, alone):
    with pytest.raises(RuntimeError):
        toy.run(num_parts=NUM_PARTS, join=True, fail_after=5)
    shards = list(toy.store.root.glob(f"toy/{DRAFT_PREFIX}*/joint/*/done/*"))
    artifact = toy.run(num_parts=NUM_PARTS).artifact
    assert (len(shards), artifact.record.digest) == (5, alone)
    only_artifact(toy)


def test_joined__process_that_fails_before_it_made_anything_leaves_nothing(toy):
    def fail(*_):
        raise ProtoRKDError("no such thing")

    options = {"params": ToyParams(), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
    with pytest.raises(ProtoRKDError, match="no such thing"):
        run_stage(replace(TOY, run=fail), **options, context=context_of(toy.store, join=True))
    assert list(toy.store.leftovers()) == []


def test_joined__process_waits_for_one_that_works_alone(toy):
    words = [sys.executable, toy_stage.__file__, str(toy.store.root), str(toy.source), "0.3"]
    alone = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for(toy, f"toy/{DRAFT_PREFIX}*/journal.jsonl")
    assert toy.run(join=True).status == "unchanged"
    assert outcome_of(alone)["status"] == "created"
    only_artifact(toy)


def test_joined__processes_are_seen_by_gc(toy):
    process = start(toy, pause_s=0.3)
    wait_for(toy, f"toy/{DRAFT_PREFIX}*/joint/*/done/*")
    [draft] = toy.store.root.glob(f"toy/{DRAFT_PREFIX}*")
    assert is_held(toy.store, "toy", draft.name.removeprefix(DRAFT_PREFIX))
    outcome_of(process)
    only_artifact(toy)


def test_joined__processes_that_read_something_else_share_no_shards(toy, alone, caplog):
    """As where libraries of other versions write the same table in other bytes, or an input changed unseen."""

    def run(params, sources, out, runtime, context):
        (out.path / "table").write_bytes(b"other bytes")
        out.adopt("table")
        return run_toy(params, sources, out, runtime, context)

    with pytest.raises(RuntimeError):
        toy.run(num_parts=NUM_PARTS, join=True, fail_after=5)
    options = {"params": ToyParams(num_parts=NUM_PARTS), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime()}
    outcome = run_stage(replace(TOY, run=run), **options, context=context_of(toy.store, join=True))
    assert outcome.artifact.record.counts["made"] == NUM_PARTS
    assert outcome.artifact.record.digest != alone
    assert "their shards are not shared, and who is done first counts" in caplog.text


def test_shard__that_is_damaged_before_the_commit_is_made_anew_by_the_next_run(toy, alone):
    with pytest.raises(RuntimeError):
        toy.run(num_parts=NUM_PARTS, join=True, fail_after=5)
    file = min(toy.store.root.glob(f"toy/{DRAFT_PREFIX}*/joint/*/files/*"))
    file.write_bytes(b"other")
    with pytest.raises(ProtoRKDError, match=r"must be as it was written; it is not\. Run the same command again"):
        toy.run(num_parts=NUM_PARTS, join=True)
    assert toy.run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    only_artifact(toy)


def test_shard__of_a_killed_process_is_made_by_another_once_its_lease_is_over(toy, alone):
    killed = start(toy, pause_s=30.0)
    wait_for(toy, f"toy/{DRAFT_PREFIX}*/joint/*/leases/shard-*")
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=TIMEOUT_S)
    begun = time.monotonic()
    assert toy.run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    assert time.monotonic() - begun >= LEASE_S / 2
    only_artifact(toy)


def test_shard__of_a_process_that_was_asked_to_stop_is_free_at_once(toy, alone, monkeypatch):
    monkeypatch.setenv(LEASE_VARIABLE, "10000")
    stopped = start(toy, pause_s=30.0)
    wait_for(toy, f"toy/{DRAFT_PREFIX}*/joint/*/leases/shard-*")
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=TIMEOUT_S)
    assert toy.run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    only_artifact(toy)


@pytest.mark.parametrize("wakes", ["before the commit", "after it"])
def test_process__that_is_stopped_beyond_its_lease_and_wakes_up_spoils_nothing(toy, alone, wakes):
    stopped = start(toy, pause_s=0.7)
    wait_for(toy, f"toy/{DRAFT_PREFIX}*/joint/*/leases/shard-*", num=2)  # it has begun its second
    stopped.send_signal(signal.SIGSTOP)
    try:
        other = start(toy, pause_s=0.02 if wakes == "after it" else 0.7)
        if wakes == "after it":
            assert outcome_of(other)["digest"] == alone
        else:
            wait_for(toy, f"toy/{DRAFT_PREFIX}*/joint/*/leases/shard-*.1")
    finally:
        stopped.send_signal(signal.SIGCONT)
    outcomes = [outcome_of(process) for process in (stopped, other) if process.returncode is None]
    assert {outcome["digest"] for outcome in outcomes} == {alone}
    assert only_artifact(toy).record.digest == alone


@pytest.mark.parametrize("moment", ["before it is sealed", "once it is sealed"])
def test_commit__of_a_process_that_was_stopped_in_it_takes_what_others_have_committed(
    toy, alone, tmp_path, monkeypatch, moment
):
    seal = Draft.seal

    def stopped(draft, record):
        sealed = seal(draft, record) if moment == "once it is sealed" else None
        shutil.copytree(tmp_path / "alone" / "toy" / record.fingerprint, toy.store.folder("toy", record.fingerprint))
        if moment == "before it is sealed":
            shutil.rmtree(draft.joint.folder)  # as others tidy up
        return sealed or seal(draft, record)

    monkeypatch.setattr(Draft, "seal", stopped)
    outcome = toy.run(num_parts=NUM_PARTS, join=True)
    assert (outcome.status, outcome.artifact.record.digest) == ("unchanged", alone)
    only_artifact(toy)


@pytest.mark.slow
def test_joined__processes_that_are_killed_at_random_moments_lose_a_shard_each_at_most(toy, alone):
    draw = random.Random(0)
    processes = [start(toy, pause_s=0.3) for _ in range(3)]
    for _ in range(10):
        time.sleep(draw.uniform(0.2, 0.8))
        place = draw.randrange(3)
        processes[place].send_signal(signal.SIGKILL)
        processes[place].communicate(timeout=TIMEOUT_S)
        processes[place] = start(toy, pause_s=0.3)
    outcomes = [outcome_of(process) for process in processes]
    assert {outcome["digest"] for outcome in outcomes} == {alone}
    assert only_artifact(toy).record.digest == alone
