"""A store in an object store: absent or complete there, whoever is killed, races, lies or answers badly."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import toy_stage
from click.testing import CliRunner
from toy_stage import CHILD, TOY, Toy

from data_schemas.artifact_record import RECORD_NAME
from data_schemas.errors import ProtoRKDError
from pipeline import objects, remote_store
from pipeline.commands import artifact_problems, gc, status, verify
from pipeline.objects import RemoteError
from pipeline.remote_records import file_key, record_key
from pipeline.remote_store import RemoteStore

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60
NUM_FILES = 6  # of a toy: three parts, a summary, a log and the journal

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def machine(tmp_path, bucket, monkeypatch):
    """Make a machine: two stages, a store in the bucket and a cache that nobody shares."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (tmp_path / "source").mkdir()

    def make(name, **options):
        toy = Toy(tmp_path / "source")
        toy.store = RemoteStore(f"{bucket}/store", tmp_path / name, **options)
        return toy

    return make


def command(toy, *words):
    options = ["--store", str(toy.store), "--store-cache", str(toy.store.root)]
    return CliRunner().invoke({"gc": gc, "verify": verify, "status": status}[words[0]], [*words[1:], *options],
                              obj=(TOY, CHILD), catch_exceptions=False)  # fmt: skip


def object_of(toy, artifact, path):
    [file] = [file for file in artifact.record.files if file.path == path]
    return file_key(artifact.record, file)


def test_artifact__made_on_one_machine_is_found_on_another(machine, bucket_server):
    made = machine("one").run()
    found = machine("two").run()
    assert (made.status, found.status) == ("created", "unchanged")
    assert found.artifact.record.digest == made.artifact.record.digest
    assert artifact_problems(found.artifact) == {}
    assert bucket_server.count("PUT", "/store/toy/") == NUM_FILES + 1


def test_artifact__that_is_here_and_there_costs_no_request(machine, bucket_server):
    one = machine("one")
    one.run()
    bucket_server.requests.clear()
    assert one.run().status == "unchanged"
    assert bucket_server.requests == []


def test_artifact__fetched_from_elsewhere_costs_a_request_a_file_and_one_for_the_record(machine, bucket_server):
    machine("one").run()
    bucket_server.requests.clear()
    machine("two").run()
    assert bucket_server.count("GET") <= NUM_FILES + 2  # the record, and once more before its files are fetched
    assert bucket_server.count() == bucket_server.count("GET")


def test_resolve__finds_the_newest_and_by_prefix_what_lies_elsewhere(machine):
    machine("one").run()
    newer = machine("one").run(scale=2.0)
    two = machine("two")
    assert two.store.resolve(None, stage="toy", flag="--toy").record == newer.artifact.record
    found = two.store.resolve(newer.artifact.record.fingerprint[:8], stage="toy", flag="--toy")
    assert artifact_problems(found) == {}


def test_chain__runs_on_another_machine_from_what_the_first_made(machine):
    made = machine("one").run()
    child = machine("two").run_child()
    assert child.artifact.record.inputs["toy"].digest == made.artifact.record.digest
    assert machine("three").run_child().status == "unchanged"


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("after", [0, 1, 2, 4, NUM_FILES])
def test_upload__that_is_killed_at_a_request_is_gone_on_with(machine, bucket, bucket_server, after, done):
    """Killed before or after the n-th request to write is done; the last of them is the record's."""
    one = machine("one")
    came, may_go = bucket_server.meet(method="PUT", part="/store/toy/", after=after, done=done)
    words = [toy_stage.__file__, f"{bucket}/store", str(one.source), "0", str(one.store.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    assert came.wait(TIMEOUT_S)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    may_go.set()
    two = machine("two")
    if (after, done) == (NUM_FILES, True):
        assert artifact_problems(two.run().artifact) == {}
    else:
        assert two.store.artifacts() == []  # absent, and not half there
    assert one.run().status == "unchanged"
    assert artifact_problems(machine("three").run().artifact) == {}


def test_fetch__that_was_killed_is_gone_on_with_and_never_seen_half(machine, bucket_server):
    made = machine("one").run().artifact
    two = machine("two")
    bucket_server.answer_with("403 Forbidden", method="GET", part="parts/2.txt")
    with pytest.raises(RemoteError, match="403"):
        two.run()
    assert not two.store.folder("toy", made.record.fingerprint).exists()
    bucket_server.requests.clear()
    assert artifact_problems(two.run().artifact) == {}
    assert bucket_server.count("GET", "parts/") < 3


@pytest.mark.parametrize("fault", ["500 Internal Server Error", "503 Slow Down", "429 Too Many Requests"])
def test_request__that_the_server_refuses_for_the_moment_is_made_again(machine, bucket_server, fault):
    for method, part in (("PUT", "parts/1.txt"), ("PUT", ".json"), ("GET", "parts/0.txt"), ("GET", ".json")):
        bucket_server.answer_with(fault, method=method, part=part, times=2)
    made = machine("one").run().artifact
    assert machine("two").run().artifact.record.digest == made.record.digest
    assert all(found.times == 0 for found in bucket_server.faults)
    assert bucket_server.count("PUT", "parts/1.txt") == 3


def test_body__that_ends_early_is_read_again(machine, bucket_server):
    machine("one").run()
    bucket_server.cut(part="parts/0.txt", times=2)
    assert artifact_problems(machine("two").run().artifact) == {}
    assert bucket_server.count("GET", "parts/0.txt") == 3


def test_request__that_is_not_answered_is_made_again(machine, bucket_server, monkeypatch):
    monkeypatch.setattr(objects, "TIMEOUT_S", 0.4)
    objects._client.cache_clear()
    bucket_server.stall(1.0, method="PUT", part="parts/0.txt")
    machine("one").run()
    bucket_server.stall(1.0, method="GET", part="parts/0.txt")
    assert artifact_problems(machine("two").run().artifact) == {}
    assert bucket_server.count("PUT", "parts/0.txt") == 2
    objects._client.cache_clear()


def test_record__whose_writing_was_not_confirmed_is_known_for_ones_own(machine, bucket_server):
    """The request is done and its answer lost: sent again, it is refused, for the record is there."""
    one = machine("one")
    bucket_server.lose_answer(method="PUT", part=".json")
    assert one.run().status == "created"
    assert artifact_problems(machine("two").run().artifact) == {}


def test_store__that_cannot_be_reached_is_told_from_one_that_has_nothing(machine, bucket_server, monkeypatch):
    monkeypatch.setattr(objects, "MAX_RETRIES", 0)
    objects._client.cache_clear()
    machine("one").run()
    two = machine("two")
    bucket_server.answer_with("503 Slow Down", method="GET", part=".json", times=20)
    with pytest.raises(RemoteError, match=r"must be reachable; got 503.*run the same command again"):
        two.run()
    assert not list(two.store.root.glob("toy/*"))
    objects._client.cache_clear()


def test_upload__that_fails_leaves_the_work_here_and_the_next_call_uploads_it(machine, bucket_server):
    one = machine("one")
    bucket_server.answer_with("403 Forbidden", method="PUT", part="summary.txt")
    with pytest.raises(RemoteError, match="is uploaded when the same command runs again"):
        one.run()
    assert "here alone" in command(one, "status").output
    assert one.run().status == "unchanged"
    assert command(one, "status").output.count("here") == 0
    assert "not here" in command(machine("two"), "status").output


def test_race__of_eight_machines_has_one_record_and_eight_that_use_it(machine, bucket, bucket_server, tmp_path):
    one = machine("one")
    words = [toy_stage.__file__, f"{bucket}/store", str(one.source), "0.02"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, *words, str(tmp_path / f"m{number}")], cwd=ROOT, env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(8)
    ]  # fmt: skip
    outcomes = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, stderr
        outcomes.append(json.loads(stdout.splitlines()[-1]))
    assert len({outcome["digest"] for outcome in outcomes}) == 1
    assert bucket_server.count("PUT", ".json") > 1  # some met
    [artifact] = one.store.artifacts()
    assert artifact_problems(one.store.fetch(artifact)) == {}
    assert one.store.remote_problems(artifact) == {}


def test_race__with_other_bytes_keeps_what_is_there_and_says_so(machine, bucket_server, caplog):
    """Two machines make the same request with different outcomes, as two GPUs may."""
    one, two = machine("one"), machine("two")
    first = one.run().artifact
    two.store.records.read = lambda stage, fingerprint: None  # the second looked before the first had written
    second_run = TOY.run

    def other(params, inputs, out, runtime, context):
        (out.path / "other.txt").write_text("other")
        del two.store.records.read
        return second_run(params, inputs, out, runtime, context)

    toy_stage.TOY = toy_stage.replace(TOY, run=other)
    try:
        second = two.run().artifact
    finally:
        toy_stage.TOY = TOY
    assert second.record.digest == first.record.digest
    assert artifact_problems(second) == {}
    assert "already holds" in caplog.text
    [aside] = (two.store.root / ".set-aside").iterdir()
    assert (aside / "other.txt").exists()


def test_force__puts_what_it_makes_in_the_place_of_what_is_there(machine, monkeypatch):
    one = machine("one")
    first = one.run().artifact
    monkeypatch.setattr(toy_stage, "TOY", toy_stage.replace(TOY, run=with_more))
    second = machine("two").run(force=True).artifact
    assert second.record.digest != first.record.digest
    assert machine("three").store.resolve(None, stage="toy", flag="--toy").record.digest == second.record.digest
    assert one.store.resolve(None, stage="toy", flag="--toy").record.digest == second.record.digest  # no longer its own


def with_more(params, inputs, out, runtime, context):
    (out.path / "more.txt").write_text("more")
    return TOY.run(params, inputs, out, runtime, context)


def test_liar__is_found_out_before_any_work_and_allowed_to_one_writer(machine, bucket_server):
    bucket_server.lies = True
    one = machine("one")
    with pytest.raises(ProtoRKDError, match="must refuse to create an object that exists.*--single-writer"):
        one.run()
    assert not list(one.store.root.glob("toy/*"))
    bucket_server.requests.clear()
    with pytest.raises(ProtoRKDError, match="--single-writer"):
        one.run()
    assert bucket_server.count("PUT") == 0  # remembered
    alone = machine("one", single_writer=True)
    assert alone.run().status == "created"
    assert artifact_problems(machine("two").run().artifact) == {}


def test_probe__is_made_once_a_day_and_leaves_nothing(machine, bucket_server):
    one = machine("one")
    one.run()
    one.run(scale=2.0)
    assert bucket_server.count("PUT", ".probe-") == 2
    assert not [found for found in one.store.objects.below() if ".probe-" in found.key]


def test_reader__needs_no_right_to_write(machine, bucket_server):
    machine("one").run()
    for method in ("PUT", "DELETE", "POST"):
        bucket_server.answer_with("403 Forbidden", method=method, times=100)
    assert machine("two").run().status == "unchanged"


def corrupt(toy, artifact, path):
    key = object_of(toy, artifact, path)
    found = toy.store.objects.read(key)[0]
    toy.store.objects.write(key, found[:-1] + bytes([found[-1] ^ 1]))


def test_fetch__of_an_altered_object_is_an_error_and_no_artifact(machine):
    one = machine("one")
    made = one.run().artifact
    corrupt(one, made, "parts/1.txt")
    two = machine("two")
    with pytest.raises(RemoteError, match=r"parts/1.txt must be as it was written; it has other bytes.*verify --repair"):
        two.run()
    assert two.store.leftovers() and not two.store.folder("toy", made.record.fingerprint).exists()


@pytest.mark.parametrize("damage", ["altered", "missing", "cut"])
def test_verify__names_a_damaged_object_and_repairs_it_from_a_good_copy(machine, damage):
    one = machine("one")
    made = one.run().artifact
    key = object_of(one, made, "parts/1.txt")
    if damage == "altered":
        corrupt(one, made, "parts/1.txt")
    elif damage == "missing":
        one.store.objects.remove([key])
    else:
        one.store.objects.write(key, b"1")
    result = command(one, "verify")
    assert isinstance(result.exception, ProtoRKDError) or result.exit_code == 1
