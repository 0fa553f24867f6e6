"""A store in an object store: absent or complete there, whoever is killed, races, lies or answers badly."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import toy_stage
from click.testing import CliRunner
from store_contract import StoreContract
from toy_stage import CHILD, MEASURED_TOY, MEASURING_CHILD, TOY, Toy

from data_schemas.artifact_record import RECORD_NAME
from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry
from pipeline.commands.artifacts import artifact_problems, gc, status, verify
from pipeline.maintenance import remote as remote_upkeep
from pipeline.remote import object_store as objects
from pipeline.remote import remote_store
from pipeline.remote.errors import RemoteError
from pipeline.remote.records import file_key, record_key
from pipeline.remote.remote_store import RemoteStore
from pipeline.results.rows import result_rows

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60
NUM_FILES = 6  # of a toy: three parts, a summary, a log and the journal

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def machine(tmp_path, bucket):
    """Make a machine: two stages, a store in the bucket and a cache that nobody shares."""
    (tmp_path / "source").mkdir()

    def make(name, **options):
        toy = Toy(tmp_path / "source")
        toy.store = RemoteStore(f"{bucket}/store", tmp_path / name, **options)
        return toy

    return make


def command(toy, *words):
    options = ["--store", str(toy.store), "--store-cache", str(toy.store.root)]
    return CliRunner().invoke({"gc": gc, "verify": verify, "status": status}[words[0]], [*words[1:], *options],
                              obj=(TOY, CHILD))  # fmt: skip


class TestRemoteStore(StoreContract):
    """Artifacts below a URL, which each opens with a cache of its own, as machines do."""

    @pytest.fixture
    def open_store(self, bucket, tmp_path):
        return lambda name: RemoteStore(f"{bucket}/store", tmp_path / name)

    def overwrite(self, store, artifact, path, data):
        record = artifact.record
        is_record = path == RECORD_NAME
        key = record_key(record.stage, record.fingerprint) if is_record else object_of(artifact, path)
        store.objects.write(key, data)

    def words(self, store):
        return ["--store", str(store), "--store-cache", str(store.root)]


def object_of(artifact, path):
    [file] = [file for file in artifact.record.files if file.path == path]
    return file_key(artifact.record, file)


@pytest.mark.parametrize("scale", [1.0, 2.0], ids=["older", "newest"])
def test_artifact__that_is_here_and_there_costs_the_note_that_it_was_asked_for(machine, bucket_server, scale):
    one = machine("one")
    one.run()
    one.run(scale=2.0)
    bucket_server.requests.clear()
    made = one.run(scale=scale)
    assert made.status == "unchanged"
    assert bucket_server.requests == [("PUT", f"/{one.store.objects.url[5:]}/toy/{made.artifact.path.name}.asked?")]
    assert machine("two").store.newest("toy").record == made.artifact.record


def test_artifact__that_is_made_on_the_way_costs_nothing(machine, bucket_server, monkeypatch):
    one = machine("one")
    one.run()
    monkeypatch.setattr(toy_stage, "TOY", replace(TOY, quiet=True))
    bucket_server.requests.clear()
    assert one.run().status == "unchanged"
    assert bucket_server.requests == []


@pytest.mark.parametrize("fault", ["silent", "refused"])
def test_artifact__that_is_here_is_unchanged_at_once_while_nothing_answers(machine, bucket_server, monkeypatch, fault):
    one = machine("one")
    older, newer = one.run().artifact, one.run(scale=2.0).artifact
    monkeypatch.setattr(objects, "AT_ONCE_S", 0.3)
    objects._client.cache_clear()
    bucket_server.requests.clear()
    if fault == "silent":
        bucket_server.stall(2.0, method="PUT", times=2)
    else:
        bucket_server.answer_with("503 Slow Down", method="PUT", times=2)
    start = time.monotonic()
    assert one.run().status == "unchanged"
    assert time.monotonic() - start < 1.5
    assert bucket_server.count() == 1
    assert one.store.newest("toy").path == older.path  # noted here
    assert machine("two").store.newest("toy").record == newer.record


def test_artifact__costs_a_request_a_file_and_one_for_the_record_to_put_and_to_fetch(machine, bucket_server):
    machine("one").run()
    assert bucket_server.count("PUT", "/store/toy/") == NUM_FILES + 1
    bucket_server.requests.clear()
    machine("two").run()
    assert bucket_server.count("GET") <= NUM_FILES + 2  # the record, once more before its files are fetched
    assert bucket_server.count() == bucket_server.count("GET") + 1  # that it was asked for


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

    def other(params, sources, out, runtime, context):
        (out.path / "other.txt").write_text("other")
        del two.store.records.read
        return second_run(params, sources, out, runtime, context)

    toy_stage.TOY = replace(TOY, run=other)
    try:
        second = two.run().artifact
    finally:
        toy_stage.TOY = TOY
    assert second.record.digest == first.record.digest
    assert artifact_problems(second) == {}
    assert "already holds" in caplog.text
    [aside] = (two.store.root / ".set-aside").iterdir()
    assert (aside / "other.txt").exists()


def test_liar__is_found_out_before_any_work_and_allowed_to_one_writer(machine, bucket_server):
    bucket_server.lies = True
    one = machine("one")
    with pytest.raises(ProtoRKDError, match=r"must refuse to create an object that exists.*--single-writer"):
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
    key = object_of(artifact, path)
    found = toy.store.objects.read(key)[0]
    toy.store.objects.write(key, found[:-1] + bytes([found[-1] ^ 1]))


def test_fetch__of_an_altered_object_is_an_error_and_no_artifact(machine):
    one = machine("one")
    made = one.run().artifact
    corrupt(one, made, "parts/1.txt")
    two = machine("two")
    with pytest.raises(RemoteError, match=r"parts/1.txt must be as it was written; it has other bytes.*--repair"):
        two.run()
    assert not two.store.folder("toy", made.record.fingerprint).exists()


def spoil(toy, artifact, path, damage):
    key = object_of(artifact, path)
    if damage == "altered":
        corrupt(toy, artifact, path)
    elif damage == "missing":
        toy.store.objects.remove([key])
    else:
        toy.store.objects.write(key, b"1")


@pytest.mark.parametrize("damage", ["altered", "missing", "cut"])
def test_verify__names_a_damaged_object_and_repairs_it_from_a_good_copy(machine, damage):
    one = machine("one")
    made = one.run().artifact
    spoil(one, made, "parts/1.txt", damage)
    result = command(one, "verify")
    assert f"{one.store}/toy/{made.record.fingerprint}, parts/1.txt: " in result.output
    assert "1 of 1 are not" in str(result.exception)
    assert command(one, "verify", "--repair").exception is None
    assert command(machine("two"), "verify").exception is None
    assert artifact_problems(machine("two").run().artifact) == {}


def test_verify__repairs_a_damaged_copy_from_the_object_store(machine):
    one = machine("one")
    made = one.run().artifact
    (made.path / "parts" / "1.txt").write_text("x" * (made.path / "parts" / "1.txt").stat().st_size)
    result = command(one, "verify", "--repair")
    assert result.exception is None
    assert "set aside as" in result.output
    assert artifact_problems(one.store.find("toy", made.record.fingerprint)) == {}


def test_verify__makes_anew_what_is_damaged_and_lies_nowhere_else(machine, monkeypatch):
    one = machine("one")
    context = toy_stage.context_of(one.store, stages=[TOY])
    options = {"params": toy_stage.ToyParams(), "inputs": toy_stage.ToyInputs(one.source)}
    made = toy_stage.run_stage(TOY, **options, runtime=toy_stage.ToyRuntime(), context=context).artifact
    corrupt(one, made, "parts/1.txt")
    two = machine("two")
    assert command(two, "verify", "--repair").exception is None
    assert two.store.remote_problems(made) == {}
    assert artifact_problems(machine("three").run().artifact) == {}


def test_verify__keeps_an_artifact_whose_log_alone_is_damaged(machine):
    one = machine("one")
    made = one.run().artifact
    corrupt(one, made, "logs/times.txt")
    two = machine("two")
    assert command(two, "verify", "--repair").exception is None
    [artifact] = two.store.artifacts()
    assert artifact.record.digest == made.record.digest
    assert "logs/times.txt" not in {file.path for file in artifact.record.files}
    assert two.store.remote_problems(artifact) == {}


@pytest.mark.parametrize("damage", ["not JSON", "of another", "escaping", "altered"])
def test_record__that_is_not_as_written_is_refused_and_repaired_by_setting_it_aside(machine, damage, tmp_path):
    one = machine("one")
    made = one.run().artifact
    key = record_key("toy", made.record.fingerprint)
    values = json.loads(one.store.objects.read(key)[0])
    if damage == "escaping":
        record = replace(made.record, files=(replace(made.record.files[0], path="../../../escaped.txt"),))
        record.write(tmp_path / "forged")
        data = (tmp_path / "forged" / RECORD_NAME).read_bytes()
    else:
        data = {
            "not JSON": b"{",
            "of another": json.dumps(values).encode().replace(b'"toy"', b'"boy"'),
            "altered": json.dumps({**values, "counts": {"made": 4}}).encode(),
        }[damage]
    one.store.objects.write(key, data)
    two = machine("two")
    with pytest.raises(RemoteError, match="verify --repair"):
        two.run()
    assert not list(tmp_path.rglob("escaped.txt"))
    assert "NOT WHOLE" in command(two, "status").output
    assert command(two, "verify").exception is not None
    command(two, "verify", "--repair")
    assert two.run().status == "created"
    assert artifact_problems(machine("three").run().artifact) == {}


def test_gc__drops_what_nothing_refers_to_there_too_record_first(machine, bucket_server):
    one = machine("one")
    old = one.run().artifact
    newest = one.run(scale=2.0).artifact
    two = machine("two")
    bucket_server.requests.clear()
    output = command(two, "gc", "--yes").output
    assert old.record.fingerprint[:12] in output
    removed = bucket_server.removed
    assert removed[0].endswith(record_key("toy", old.record.fingerprint))
    assert len(removed) == 2 + NUM_FILES  # and the note of when it was asked for, were there one
    assert all(old.record.fingerprint in key for key in removed)
    [left] = machine("three").store.artifacts()
    assert left.record == newest.record
    assert not [found for found in two.store.objects.below() if old.record.fingerprint in found.key]


def test_gc__lists_files_without_a_record_and_removes_them_when_they_are_old(machine, bucket_server, monkeypatch):
    one = machine("one")
    made = one.run().artifact
    one.store.objects.remove([record_key("toy", made.record.fingerprint)])
    two = machine("two")
    assert "stays for a day" in command(two, "gc", "--yes").output
    assert bucket_server.removed == ["store/" + record_key("toy", made.record.fingerprint)]
    monkeypatch.setattr(remote_upkeep, "ABANDONED", timedelta(seconds=-1))
    assert "no record names them" in command(two, "gc", "--yes").output
    assert list(two.store.objects.below()) == []


def test_gc__touches_nothing_that_is_not_the_stores(machine):
    one = machine("one")
    one.run()
    strangers = ["notes.txt", "toy/notes.json", "toy/deeper/and/deeper.txt", "Other Folder/x"]
    for key in strangers:
        one.store.objects.write(key, b"not ours")
    assert "Nothing to remove" in command(one, "gc", "--yes").output
    assert {found.key for found in one.store.objects.below()} >= set(strangers)
    assert len(one.store.artifacts()) == 1


def test_source__that_gc_removed_elsewhere_is_uploaded_with_what_is_made_from_it(machine):
    one = machine("one")
    made = one.run().artifact
    machine("two").store.remove(machine("two").store.folder("toy", made.record.fingerprint))
    one.run_child(str(made.path))
    assert machine("three").run().status == "unchanged"


def test_upload__trusts_no_file_that_others_might_take_for_abandoned(machine, bucket_server, monkeypatch):
    one = machine("one")
    made = one.run().artifact
    assert one.store._not_there(made.record) == []
    monkeypatch.setattr(remote_store, "_TRUSTED", timedelta(seconds=-5))
    assert one.store._not_there(made.record) == list(made.record.files)


def test_large_file__goes_in_parts_both_ways(machine, bucket_server, monkeypatch):
    monkeypatch.setattr(objects, "_PART", 5 << 20)
    content = os.urandom(12 << 20)

    def with_large(params, sources, out, runtime, context):
        (out.path / "large.bin").write_bytes(content)
        return TOY.run(params, sources, out, runtime, context)

    monkeypatch.setattr(toy_stage, "TOY", replace(TOY, run=with_large))
    machine("one").run()
    assert bucket_server.count("PUT", "large.bin?partNumber") == 3
    bucket_server.cut(part="large.bin")
    found = machine("two").run().artifact
    assert (found.path / "large.bin").read_bytes() == content


def test_large_file__whose_bytes_have_changed_is_not_uploaded(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(objects, "_PART", 5 << 20)
    (tmp_path / "large.bin").write_bytes(bytes(12 << 20))
    entry = FileEntry("large.bin", 12 << 20, "0" * 64)
    store = machine("one").store
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        store.objects.upload("x/large.bin", entry, tmp_path)
    assert list(store.objects.below()) == []


def test_error__shows_no_credentials(machine, bucket_server, monkeypatch):
    body = b"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIATESTTESTTESTTEST</AWSAccessKeyId></Error>"
    bucket_server.answer_with("403 Forbidden", method="GET", body=body, times=9)
    with pytest.raises(RemoteError) as caught:
        machine("one").run()
    assert "403 Forbidden SignatureDoesNotMatch" in str(caught.value)
    assert "AKIA" not in str(caught.value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "false")
    objects._client.cache_clear()
    with pytest.raises(RemoteError, match="AWS_ALLOW_HTTP"):
        machine("one").run()
    objects._client.cache_clear()


def test_record__holds_no_credentials(machine, bucket_server):
    one = machine("one")
    made = one.run().artifact
    text = one.store.objects.read(record_key("toy", made.record.fingerprint))[0].decode()
    assert not any(value in text for name, value in bucket_server.environment.items() if "KEY" in name)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "s3://bucket/x?X-Amz-Signature=secret", "s3://b/x#secret"])
def test_url__with_more_than_a_place_is_refused_without_showing_it(url, tmp_path):
    with pytest.raises(ProtoRKDError, match="must name a place and nothing else") as caught:
        RemoteStore(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_url__of_a_bucket_that_is_not_there_says_so(machine, bucket, tmp_path):
    toy = machine("one")
    toy.store = RemoteStore("s3://no-such-bucket/x", tmp_path / "other")
    with pytest.raises(RemoteError, match=r"NoSuchBucket\. Make the bucket"):
        toy.run()


def test_cache__of_two_stores_is_confused_by_neither(machine, bucket, tmp_path):
    one = machine("one")
    made = one.run().artifact
    one.store = RemoteStore(f"{bucket}/other", one.store.root)
    assert one.run().status == "unchanged"
    assert one.store.records.read("toy", made.record.fingerprint) is not None


def test_url__of_a_folder_is_a_store_that_machines_share_too(tmp_path):
    def machine(name):
        toy = Toy(tmp_path)
        toy.store = RemoteStore(f"file://{tmp_path}/shared", tmp_path / name)
        return toy

    assert machine("one").run().status == "created"
    found = machine("two").run()
    assert found.status == "unchanged"
    assert artifact_problems(found.artifact) == {}


def test_result_rows__of_a_bucket_bring_single_files_and_no_artifact(machine, bucket_server):
    toy = machine("one").run().artifact
    machine("one").run_child()
    bucket_server.requests.clear()
    other = machine("two")
    [row] = result_rows(other.store, (MEASURED_TOY, MEASURING_CHILD))
    assert row.artifacts[0].record == toy.record
    assert row.figures["score"].low == 40.0  # for which a file of the child was read
    assert bucket_server.count("GET", "child.txt") == 1
    assert bucket_server.count("GET", "parts/") == 0
    assert bucket_server.count() == bucket_server.count("GET")
    assert not (other.store.root / "toy").exists()
