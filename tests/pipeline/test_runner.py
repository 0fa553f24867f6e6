import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import toy_stage
from toy_stage import CHILD, TOY, ToyInputs, ToyParams, ToyRuntime

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import ProtoRKDError
from pipeline import runner
from pipeline.plan import plan_stage
from pipeline.runner import context_of, make_artifact
from pipeline.stage import Distributed
from pipeline.store import draft
from pipeline.store import file_digests as memo

ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(quiet_log, caplog):
    caplog.set_level("INFO", logger="protorkd")
    return caplog


def plan(toy, **params):
    inputs = ToyInputs(source=toy.source)
    options = {"params": ToyParams(**params), "inputs": inputs, "runtime": ToyRuntime()}
    return plan_stage(TOY, **options, context=context_of(toy.store))


def everything(root):
    """Return all files and folders with what changes when they are written."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino) for path in root.rglob("*")}


def start(toy, pause_s):
    words = [sys.executable, toy_stage.__file__, str(toy.store.root), str(toy.source), str(pause_s)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def wait_for(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_run_stage__creates_once_and_then_finds_it_unchanged(toy, log):
    first, second = toy.run(), toy.run()
    assert (first.status, second.status) == ("created", "unchanged")
    assert first.artifact == second.artifact
    assert first.artifact.path == toy.store.root / "toy" / first.artifact.record.fingerprint
    lines = [record.message for record in log.records]
    assert lines[0].startswith("toy: making ")
    assert lines[0].endswith("(nothing like it in the store)")
    assert lines[1].startswith(f"toy: made {first.artifact.path}, digest ")
    assert lines[2] == f"toy: unchanged, using {first.artifact.path}"


def test_run_stage__records_what_was_asked_for_and_made(toy):
    outcome = toy.run(scale=2.0)
    record = outcome.artifact.record
    assert record.params == {"scale": 2.0, "num_parts": 3, "word": None}
    assert record.inputs["source"].location == str(toy.source)
    assert record.counts == {"made": 3}
    assert record.environment["device"] == "none"
    assert {"python", "platform", "torch", "zarr"} <= record.environment.keys()
    assert record.problems(outcome.artifact.path, read=True) == {}
    values = json.loads(json.dumps(outcome.as_json()))
    assert values.keys() == {"stage", "fingerprint", "digest", "path", "status", "seconds", "counts"}
    assert toy.run_child().as_json()["metrics"] == {"score": 50.0}


def test_run_stage__writes_nothing_when_unchanged(toy, monkeypatch):
    monkeypatch.setattr(memo, "_SETTLED_S", -3600.0)  # the source counts as old
    toy.run()
    before = everything(toy.store.root)
    assert toy.run().status == "unchanged"
    assert everything(toy.store.root) == before


@pytest.mark.parametrize("change", [{"scale": 2.0}, {"num_parts": 1}, {"word": ""}, {"version": 2}])
def test_run_stage__runs_again_when_a_parameter_or_the_version_changes(toy, change):
    first, second = toy.run(), toy.run(**change)
    assert second.status == "created"
    assert second.artifact.record.fingerprint != first.artifact.record.fingerprint
    assert toy.run().artifact == first.artifact


def test_run_stage__does_not_hear_the_runtime(toy):
    toy.run()
    assert toy.run(pause_s=0.001).status == "unchanged"


def test_run_stage__runs_again_when_the_input_changes_and_says_so(toy, log):
    first = toy.run()
    toy.source.write_text("other words")
    second = toy.run()
    assert second.status == "created"
    earlier = first.artifact.record
    old, new = earlier.inputs["source"].digest, second.artifact.record.inputs["source"].digest
    reason = f"(against {earlier.fingerprint[:12]}: source ({toy.source}): {old[:12]} -> {new[:12]})"
    assert any(record.message.endswith(reason) for record in log.records)


def test_run_stage__writes_only_the_new_place_of_an_input_that_moved(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(memo, "_SETTLED_S", -3600.0)
    first = toy.run().artifact
    before = everything(toy.store.root)
    moved = toy.source.rename(tmp_path / "moved.txt")
    second = toy.run(source=moved)
    assert second.status == "unchanged"
    assert second.artifact.record.inputs["source"].location == str(moved)
    assert ArtifactRecord.read(first.path) == second.artifact.record
    inputs = {"source": dataclasses.replace(first.record.inputs["source"], location=str(moved))}
    assert second.artifact.record == dataclasses.replace(first.record, inputs=inputs)
    changed = {path.name for path, facts in everything(toy.store.root).items() if before[path] != facts}
    assert changed == {first.path.name, "artifact.json", "file-digests.sqlite"}


def test_run_stage__makes_everything_anew_when_forced(toy, log):
    first, forced = toy.run(), toy.run(force=True)
    assert forced.status == "created"
    assert forced.artifact.path == first.artifact.path
    assert forced.artifact.record.counts == {"made": 3}
    assert forced.artifact.record.digest == first.artifact.record.digest
    assert forced.artifact.record.created > first.artifact.record.created
    assert any(record.message.endswith("(forced)") for record in log.records)
    assert list(toy.store.leftovers()) == []


def test_run_stage__goes_on_from_what_a_failed_run_left(toy, log):
    with pytest.raises(RuntimeError):
        toy.run(fail_after=2)
    assert toy.store.artifacts() == []
    assert len(list(toy.store.leftovers())) == 1
    outcome = toy.run()
    assert outcome.status == "created"
    assert outcome.artifact.record.counts == {"made": 1}
    assert list(toy.store.leftovers()) == []
    assert any("going on from what an earlier run left" in record.message for record in log.records)
    assert outcome.artifact.record.digest == toy.run(force=True).artifact.record.digest


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [Path.unlink, cut], ids=["missing", "cut"])
@pytest.mark.parametrize(
    ("name", "num_made"), [("parts/1.txt", 1), ("summary.txt", 0), ("logs/times.txt", 0), ("artifact.json", 0)]
)
def test_run_stage__makes_only_what_is_damaged_anew(toy, log, damage, name, num_made):
    first = toy.run().artifact
    damage(first.path / name)
    outcome = toy.run()
    assert outcome.status == "created"
    record = outcome.artifact.record
    assert record.counts == {"made": num_made}
    assert record.digest == first.record.digest
    assert record.problems(first.path, read=True) == {}
    assert toy.run().status == "unchanged"


def test_run_stage__runs_other_requests_beside_a_damaged_record(toy):
    first = toy.run().artifact
    (first.path / "artifact.json").write_text("{")
    assert toy.run(scale=2.0).status == "created"


def test_run_stage__finishes_a_commit_that_was_killed_before_its_rename(toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(draft, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            toy.run()
    assert toy.store.artifacts() == []
    monkeypatch.setattr(runner, "_make", None)  # no work is done
    outcome = toy.run()
    assert outcome.status == "unchanged"
    assert not (outcome.artifact.path / "state").exists()
    assert list(toy.store.leftovers()) == []


def test_run_stage__does_not_finish_a_killed_commit_whose_files_are_damaged(toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(draft, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            toy.run()
    [path] = toy.store.leftovers()
    (path / "parts/2.txt").write_bytes((path / "parts/2.txt").read_bytes()[::-1])
    outcome = toy.run()
    assert outcome.status == "created"
    assert outcome.artifact.record.counts == {"made": 1}
    assert outcome.artifact.record.problems(outcome.artifact.path, read=True) == {}


def test_run_stage__finishes_a_replacement_that_was_killed_between_its_two_renames(toy, monkeypatch):
    first = toy.run().artifact
    rename, names = Path.rename, []

    def second_fails(path, target):
        names.append(path.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", second_fails)
        with pytest.raises(KeyboardInterrupt):
            toy.run(force=True)
    assert toy.store.artifacts() == []
    outcome = toy.run()
    assert outcome.status == "unchanged"
    assert outcome.artifact.record.digest == first.record.digest
    assert list(toy.store.leftovers()) == []


def test_run_stage__names_a_missing_input(toy):
    toy.source.unlink()
    with pytest.raises(ProtoRKDError, match=r"source\.txt must be a readable file"):
        toy.run()


def test_run_stage__reruns_a_child_only_when_its_parents_bytes_change(toy):
    toy.run()
    assert toy.run_child().status == "created"
    toy.run(force=True)
    assert toy.run_child().status == "unchanged"
    toy.run(scale=2.0)
    assert toy.run_child().status == "created"


def test_plan_stage__does_no_work_and_tells_why(toy):
    assert plan(toy).reason() == "nothing like it in the store"
    assert toy.store.artifacts() == []
    first = toy.run().artifact
    assert plan(toy).artifact == first
    assert plan(toy, scale=2.0).reason() == f"against {first.record.fingerprint[:12]}: --scale: 1.0 -> 2.0"
    (first.path / "parts/0.txt").unlink()
    assert plan(toy).reason() == "1 file(s) of the artifact are not whole, first parts/0.txt: missing"
    (first.path / "artifact.json").write_text("")
    assert plan(toy).reason() == "1 file(s) of the artifact are not whole, first artifact.json: cannot be read"


def test_run_stage__lets_the_second_of_two_processes_wait_and_use_the_first_ones_work(toy):
    first = start(toy, pause_s=0.4)
    wait_for(lambda: list(toy.store.root.glob("toy/.holder-*")))
    second = start(toy, pause_s=0.4)
    (first_out, first_err), (second_out, second_err) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), first_err + second_err
    made, used = json.loads(first_out), json.loads(second_out)
    assert (made["status"], used["status"]) == ("created", "unchanged")
    assert made["path"] == used["path"]
    assert f"toy: waiting for process {first.pid} on " in second_err
    assert not made["torch"]
    assert list(toy.store.leftovers()) == []


def test_run_stage__goes_on_after_a_kill(toy):
    process = start(toy, pause_s=0.3)
    wait_for(lambda: list(toy.store.root.glob("toy/.draft-*/parts/0.txt")))
    process.kill()
    process.communicate(timeout=60)
    assert toy.store.artifacts() == []
    outcome = toy.run()
    assert outcome.status == "created"
    assert outcome.artifact.record.counts["made"] <= 3
    assert outcome.artifact.record.digest == toy.run(force=True).artifact.record.digest


@pytest.mark.parametrize(("fail_after", "num_left"), [(0, 0), (2, 1)])
def test_run_stage__keeps_the_draft_of_a_user_error_only_when_it_spares_work(toy, monkeypatch, fail_after, num_left):
    monkeypatch.setattr(toy_stage, "RuntimeError", ProtoRKDError, raising=False)
    with pytest.raises(ProtoRKDError):
        toy.run(fail_after=fail_after)
    assert len(list(toy.store.leftovers())) == num_left


def test_run_stage__plans_anew_when_an_input_changes_while_it_waits(toy, monkeypatch):
    """The holder of the lock ends only after the source has other words."""
    old = plan(toy).fingerprint
    acquire, held = filelock.FileLock.acquire, filelock.FileLock(toy.store.root / "toy" / f".lock-{old}")
    (toy.store.root / "toy").mkdir(parents=True)
    held.acquire()

    def then_change(lock, timeout=None, **options):
        if timeout is None and held.is_locked:
            toy.source.write_text("other words")
            held.release()
        return acquire(lock, timeout=timeout, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", then_change)
    outcome = toy.run()
    assert outcome.artifact.record.fingerprint == plan(toy).fingerprint != old
    assert (outcome.artifact.path / "parts/0.txt").read_text() == "0 1.0 None other words"
    assert toy.store.artifacts() == [outcome.artifact]
    assert list(toy.store.leftovers()) == []


def test_run_stage__goes_on_when_an_input_is_the_same_after_the_wait(toy, monkeypatch):
    old = plan(toy).fingerprint
    acquire, held = filelock.FileLock.acquire, filelock.FileLock(toy.store.root / "toy" / f".lock-{old}")
    (toy.store.root / "toy").mkdir(parents=True)
    held.acquire()

    def then_release(lock, timeout=None, **options):
        if timeout is None:
            held.release()
        return acquire(lock, timeout=timeout, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", then_release)
    assert toy.run().artifact.record.fingerprint == old


@pytest.mark.parametrize(
    ("change", "got"),
    [(lambda path: path.write_text("other words"), r"source \S*source\.txt"), (Path.unlink, "cannot be read")],
)
def test_run_stage__commits_nothing_when_an_input_changes_while_it_works(toy, monkeypatch, change, got):
    def run(*arguments):
        result = TOY.run(*arguments)
        change(toy.source)
        return result

    monkeypatch.setattr(toy_stage, "TOY", replace(TOY, run=run))
    with pytest.raises(ProtoRKDError, match=rf"inputs of toy must stay as they are .*; got .*{got}") as failure:
        toy.run()
    [aside] = (toy.store.root / ".set-aside").iterdir()
    assert str(aside) in str(failure.value)
    assert (aside / "parts/0.txt").read_text() == "0 1.0 None words"
    assert toy.store.artifacts() == list(toy.store.leftovers()) == []
    toy.source.write_text("words")
    monkeypatch.undo()
    assert toy.run().artifact.record.counts == {"made": 3}  # nothing is taken over from what was set aside


def put_back(path, before, other):
    """Let other words stand in a file for a moment; its time of change is put back as well."""
    stat = path.stat()
    time.sleep(0.02)  # a kernel's clock moves by ticks
    path.write_text(other)
    path.write_text(before)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("touched", [False, True])
def test_check_inputs__refuses_what_was_written_and_put_back_since_it_was_hashed(toy, monkeypatch, touched):
    def run(params, sources, out, runtime, context):
        if touched:
            put_back(toy.source, "words", "other")
        context.check_inputs()
        return TOY.run(params, sources, out, runtime, context)

    monkeypatch.setattr(toy_stage, "TOY", replace(TOY, run=run))
    if touched:
        with pytest.raises(ProtoRKDError, match=rf"must stay .* while it reads them; written .*: {toy.source}\."):
            toy.run()
        assert toy.store.artifacts() == list(toy.store.leftovers()) == []
        monkeypatch.undo()
    assert toy.run().status == "created"


def test_check_inputs__names_an_input_that_is_another_by_now(toy, monkeypatch):
    def run(*arguments):
        toy.source.write_text("other words")
        arguments[-1].check_inputs()

    monkeypatch.setattr(toy_stage, "TOY", replace(TOY, run=run))
    with pytest.raises(ProtoRKDError, match=rf"written meanwhile: source {toy.source}"):
        toy.run()


def test_run_stage__keeps_to_the_newest_that_it_began_with(toy, monkeypatch):
    """A newer artifact that comes while a run works is no other input."""
    first = toy.run().artifact

    def run(*arguments):
        toy.run(scale=2.0)
        return CHILD.run(*arguments)

    monkeypatch.setattr(toy_stage, "CHILD", replace(CHILD, run=run))
    child = toy.run_child().artifact
    assert child.record.inputs["toy"].digest == first.record.digest


def test_make_artifact__meets_nobody_though_there_are_several_processes(toy, monkeypatch):
    def join():
        raise AssertionError("it waits for processes that are not coming")

    monkeypatch.setenv("WORLD_SIZE", "2")
    context = context_of(toy.store, stages=[replace(TOY, distributed=Distributed(join))])
    artifact = make_artifact("toy", params={}, inputs={"source": toy.source}, runtime={}, context=context)
    assert artifact.record.stage == "toy"
