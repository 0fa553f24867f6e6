"""Machines that share nothing but an object store make one artifact together."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import toy_stage
from click.testing import CliRunner
from toy_stage import CHILD, TOY, Toy

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import artifact_problems, gc
from pipeline.maintenance import remote as remote_upkeep
from pipeline.remote.object_store import Objects
from pipeline.remote.remote_store import RemoteStore
from pipeline.store.leases import LEASE_VARIABLE
from pipeline.store.store import Store

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 120
NUM_PARTS = 9

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    monkeypatch.setenv(LEASE_VARIABLE, "1.5")


@pytest.fixture
def machine(tmp_path, bucket):
    """Make a machine: a stage, a store in the bucket, and a cache that nobody shares."""
    (tmp_path / "source").mkdir()

    def make(name, **options):
        toy = Toy(tmp_path / "source")
        toy.store = RemoteStore(f"{bucket}/store", tmp_path / name, **options)
        return toy

    return make


@pytest.fixture
def alone(machine, tmp_path):
    """Digest of the same request, made by one process in a folder."""
    toy = machine("alone")
    toy.store = Store(tmp_path / "alone-store")
    return toy.run(num_parts=NUM_PARTS).artifact.record.digest


def start(toy, *, pause_s=0.05):
    words = [toy_stage.__file__, str(toy.store), str(toy.source), str(pause_s), str(toy.store.root), str(NUM_PARTS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def outcome_of(process):
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


def wait_for(bucket, part):
    """Wait until there is an object with a part of a key."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(part in found.key for found in Objects(f"{bucket}/store").below()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_whole(machine, bucket, digest):
    """The store's one artifact is whole for a machine that has not seen it, and nothing else is there."""
    found = machine("later").run(num_parts=NUM_PARTS)
    assert (found.status, found.artifact.record.digest) == ("unchanged", digest)
    assert artifact_problems(found.artifact) == {}
    keys = [found.key for found in Objects(f"{bucket}/store").below()]
    assert not [key for key in keys if "/joint-" in key]


def test_joined__machines_make_the_bytes_of_one_and_fetch_nothing(machine, bucket, bucket_server, alone):
    machines = [machine(name) for name in ("one", "two", "three")]
    outcomes = [outcome_of(process) for process in [start(toy, pause_s=0.2) for toy in machines]]
    assert sorted(outcome["status"] for outcome in outcomes) == ["created", "unchanged", "unchanged"]
    assert {outcome["digest"] for outcome in outcomes} == {alone}
    assert not any(Path(outcome["path"]).exists() for outcome in outcomes)
    assert bucket_server.count("GET", "/files/") == 0
    assert not any(list(toy.store.leftovers()) for toy in machines)
    check_whole(machine, bucket, alone)


def test_joined__shard_costs_four_requests_and_two_at_the_commit(machine, bucket_server):
    machine("one").run(num_parts=NUM_PARTS, join=True)
    shard = {(method, part): bucket_server.count(method, part) for method, part in (
        ("PUT", "/leases/shard-"), ("PUT", "/files/"), ("PUT", "/done/"), ("GET", "/done/"), ("PUT", "/parts/"),
    )}  # fmt: skip
    assert set(shard.values()) == {NUM_PARTS}
    assert NUM_PARTS < bucket_server.count("GET", ".json") < NUM_PARTS + 10  # whether it is made by now


def test_joined__machine_that_comes_late_fetches_nothing(machine, bucket_server, tmp_path):
    made = machine("one").run(num_parts=NUM_PARTS).artifact
    bucket_server.requests.clear()
    late = machine("two")
    moved = tmp_path / "moved.txt"
    moved.write_text(late.source.read_text())
    outcome = late.run(num_parts=NUM_PARTS, join=True, source=moved)
    assert (outcome.status, outcome.artifact.record.digest) == ("unchanged", made.record.digest)
    assert not outcome.artifact.path.exists()
    assert bucket_server.count("GET", "/parts/") == 0
    assert artifact_problems(late.store.fetch(outcome.artifact)) == {}


def test_joined__processes_of_one_machine_may_share_its_cache(machine, bucket, alone):
    one = machine("one")
    outcomes = [outcome_of(process) for process in [start(one, pause_s=0.2) for _ in range(2)]]
    assert {outcome["digest"] for outcome in outcomes} == {alone}
    assert list(one.store.leftovers()) == []
    check_whole(machine, bucket, alone)


def test_shard__of_a_machine_that_vanished_is_made_by_another(machine, bucket, bucket_server, alone):
    vanished = start(machine("one"), pause_s=0.5)
    wait_for(bucket, "/done/")
    vanished.send_signal(signal.SIGKILL)
    vanished.communicate(timeout=TIMEOUT_S)
    num_done = sum("/done/" in found.key for found in Objects(f"{bucket}/store").below())
    bucket_server.requests.clear()
    two = machine("two")
    assert two.run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    assert bucket_server.count("PUT", "/done/") == NUM_PARTS - num_done
    check_whole(machine, bucket, alone)


def test_machine__that_is_stopped_beyond_its_lease_and_wakes_up_spoils_nothing(machine, bucket, alone):
    stopped = start(machine("one"), pause_s=0.5)
    wait_for(bucket, "/done/")
    stopped.send_signal(signal.SIGSTOP)
    try:
        assert machine("two").run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    finally:
        stopped.send_signal(signal.SIGCONT)
    assert outcome_of(stopped)["digest"] == alone
    check_whole(machine, bucket, alone)


def test_joined__machine_whose_answers_are_lost_loses_nothing(machine, bucket, bucket_server, alone):
    for part in ("/leases/", "/done/", "/files/", ".json"):
        bucket_server.lose_answer(method="PUT", part=part)
    one = machine("one")
    assert one.run(num_parts=NUM_PARTS, join=True).artifact.record.digest == alone
    assert all(fault.times == 0 for fault in bucket_server.faults)
    check_whole(machine, bucket, alone)


def test_joined__run_that_nobody_goes_on_with_is_found_by_gc(machine, bucket, monkeypatch):
    one = machine("one")
    with pytest.raises(RuntimeError):
        one.run(num_parts=NUM_PARTS, join=True, fail_after=3)
    words = ["--yes", "--store", str(one.store), "--store-cache", str(one.store.root)]
    kept = CliRunner().invoke(gc, words, obj=(TOY, CHILD))
    assert "being made by others, uploaded, or left; stays for a day" in kept.output
    wait_for(bucket, "/done/")
    monkeypatch.setattr(remote_upkeep, "ABANDONED", timedelta(seconds=-1))
    assert CliRunner().invoke(gc, words, obj=(TOY, CHILD)).exit_code == 0
    assert list(Objects(f"{bucket}/store").below("toy")) == []


def test_joined__machine_must_not_be_the_single_writer(machine):
    one = machine("one", single_writer=True)
    with pytest.raises(ProtoRKDError, match="--join must go without --single-writer"):
        one.run(num_parts=NUM_PARTS, join=True)
