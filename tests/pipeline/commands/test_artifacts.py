import errno
import json
import os
from dataclasses import replace

import click
import filelock
import pytest
from click.testing import CliRunner
from toy_stage import CHILD, TOY

from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import gc, status, verify
from pipeline.commands.stages import stage_command, why_command
from pipeline.sizes import human_size
from pipeline.stage import Overview
from pipeline.store.draft import open_draft
from pipeline.store.locks import is_held, locked
from pipeline.store.store import MEMO_NAME, Store

STAGES = (TOY, replace(CHILD, keep=True))

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def call(toy):
    """Run a command against the toy's store; return the click result."""

    def run(command, *words, stdin=None, stages=STAGES):
        words = [*map(str, words), "--store", str(toy.store.root)]
        return CliRunner().invoke(command, words, obj=stages, input=stdin)

    return run


@pytest.fixture
def said(call):
    """Run a command that must succeed; return its stdout."""

    def run(command, *words, **options):
        result = call(command, *words, **options)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return run


@pytest.fixture
def refused(call):
    """Run a command that must refuse; return stdout and the message."""

    def run(command, *words):
        result = call(command, *words)
        assert isinstance(result.exception, ProtoRKDError), (result.output, result.exception)
        return result.stdout, str(result.exception)

    return run


def names(artifacts):
    return {artifact.path for artifact in artifacts}


def test_stage_command__prints_one_json_object(toy, said):
    lines = said(stage_command(TOY), "--source", toy.source, "--json").splitlines()
    values = json.loads(lines[-1])
    assert len(lines) == 1
    assert values["status"] == "created"
    assert values["counts"] == {"made": 3}
    assert json.loads(said(stage_command(TOY), "--source", toy.source, "--json"))["status"] == "unchanged"
    assert json.loads(said(stage_command(TOY), "--source", toy.source, "--force", "--json"))["status"] == "created"


def test_stage_command__tells_people_counts_measures_and_place(toy, said):
    text = said(stage_command(TOY), "--source", toy.source)
    assert text.splitlines()[0].split() == ["made", "3"]
    assert f"toy created: {toy.store.artifacts()[0].path}" in text
    assert "50.00" in said(stage_command(CHILD))


def test_stage_command__takes_its_store_from_the_environment(toy, monkeypatch):
    monkeypatch.setenv("PROTORKD_STORE", str(toy.store.root))
    assert CliRunner().invoke(stage_command(TOY), ["--source", str(toy.source)]).exit_code == 0
    assert len(toy.store.artifacts()) == 1


def test_stage_command__holds_parameters_to_their_rules(toy, refused):
    assert refused(stage_command(TOY), "--source", toy.source, "--scale", 0)[1].startswith("--scale must be above 0")


def test_why_command__answers_without_doing(toy, said):
    why = why_command(TOY)
    assert "nothing like it in the store" in said(why, "--source", toy.source)
    assert toy.store.artifacts() == []
    artifact = toy.run().artifact
    assert said(why, "--source", toy.source) == f"toy would not run: unchanged, {artifact.path} has it.\n"
    assert "--scale: 1.0 -> 2.0" in said(why, "--source", toy.source, "--scale", 2)
    assert toy.store.artifacts() == [artifact]


def test_status__lists_what_there_is_and_from_what(toy, said):
    assert "holds no artifacts" in said(status)
    first, child = toy.run().artifact, toy.run_child().artifact
    lines = said(status).splitlines()
    assert lines[0].startswith(f"{first.name}  {human_size(first.record.size)}  {first.record.created[:19]}")
    assert lines[0].endswith(f"from source {toy.source}")
    assert lines[1].startswith(child.name)
    assert lines[1].endswith(f"from {first.name}")


def test_status__tells_what_an_artifact_is_and_what_it_reached(toy, said):
    def first_metric(metrics):
        return next(iter(metrics), "")

    stages = (
        replace(TOY, overview=Overview(options=("word", "scale"))),
        replace(CHILD, overview=Overview(measures="toy", headline=first_metric)),
    )
    toy.run(word="red")
    toy.run_child()
    lines = said(status, stages=stages).splitlines()
    assert f"  word red, scale 1, score 50.00  from source {toy.source}" in lines[0]
    assert "  score 50.00  from toy " in lines[1]
    described = json.loads(said(status, "--json", stages=stages))["artifacts"][0]
    assert described["options"] == {"word": "red", "scale": 1.0}
    assert described["headline"] == {"metric": "score", "value": 50.0}


def test_status__sums_up_the_artifacts_of_stages_that_are_no_commands(toy, said):
    first, child = toy.run().artifact, toy.run_child().artifact
    lines = said(status, stages=(TOY,)).splitlines()
    assert lines[0].startswith(first.name)
    assert lines[1:] == [f"child  1 made on the way  {human_size(child.record.size)}"]
    next(path for path in child.path.iterdir() if path.name != "artifact.json").unlink()
    assert "NOT WHOLE" in said(status, stages=(TOY,))


def test_status__shows_what_is_not_whole_and_what_is_unfinished(toy, said):
    first, second = toy.run().artifact, toy.run(scale=2.0).artifact
    (first.path / "parts/0.txt").unlink()
    (second.path / "artifact.json").write_text("{")
    open_draft(toy.store, "toy", "0" * 32)
    with locked(toy.store, "toy", "1" * 32):
        open_draft(toy.store, "toy", "1" * 32)
        text = said(status)
    lines = {line.split()[1]: line for line in text.splitlines()}
    assert lines[first.path.name[:12]].endswith("NOT WHOLE: parts/0.txt")
    assert lines[second.path.name[:12]].endswith("NOT WHOLE: artifact.json")
    assert "(unfinished)" in lines["0" * 12]
    assert lines["0" * 12].endswith("left by a killed run; the same command goes on from it")
    assert lines["1" * 12].endswith("in the making")


def test_verify__finds_sound_artifacts_whole(toy, said):
    artifacts = [toy.run().artifact, toy.run_child().artifact]
    assert said(verify).splitlines() == [f"{artifact.name}: whole" for artifact in artifacts]
    assert said(verify, artifacts[1].record.fingerprint[:8]) == f"{artifacts[1].name}: whole\n"


def test_verify__names_every_damaged_file(toy, refused):
    sound, bad = toy.run(scale=2.0).artifact, toy.run(num_parts=4).artifact
    flipped, cut, gone, added = (bad.path / f"parts/{name}.txt" for name in (0, 1, 2, "extra"))
    data = flipped.read_bytes()
    flipped.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    cut.write_bytes(b"")
    gone.unlink()
    added.write_bytes(b"")
    text, message = refused(verify)
    assert text.splitlines() == [
        f"{sound.name}: whole",
        f"{bad.name}: NOT WHOLE",
        f"  {flipped}: has other bytes than were written",
        f"  {cut}: has 0 bytes instead of {len(data)}",
        f"  {gone}: missing",
        f"  {added}: is not in the record",
    ]
    assert message.startswith("Every artifact must be as it was written; 1 of 2 are not.")


def test_verify__finds_a_flipped_byte_in_any_file(toy, refused, said):
    artifact = toy.run().artifact
    for path in sorted(artifact.path.rglob("*")):
        if path.is_file():
            good = path.read_bytes()
            middle = len(good) // 2
            path.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
            assert str(path) in refused(verify)[0]
            path.write_bytes(good)
    said(verify)


def test_verify__names_a_damaged_record_and_goes_on(toy, refused):
    bad, sound = toy.run().artifact, toy.run(scale=2.0).artifact
    (bad.path / "artifact.json").write_text("{")
    text, message = refused(verify)
    assert f"toy {bad.path.name[:12]}: NOT WHOLE\n  {bad.path / 'artifact.json'} must be JSON" in text
    assert f"{sound.name}: whole" in text
    assert "1 of 2 are not" in message
    assert "artifact.json must be JSON" in refused(verify, bad.path.name[:8])[1]


def test_verify__finds_a_record_that_does_not_follow_from_what_it_tells(toy, refused):
    artifact = toy.run().artifact
    record = artifact.record
    for field, value, problem in (
        ("digest", "0" * 64, "its digest does not follow from its files"),
        ("params", {"scale": 3.0}, "its fingerprint does not follow from its parameters and inputs"),
    ):
        type(record)(**{**vars(record), field: value}).write(artifact.path)
        assert problem in refused(verify)[0]


@pytest.mark.parametrize("reference", ["zzz", ""])
def test_verify__refuses_a_reference_that_does_not_fit_one(toy, refused, reference):
    for scale in (1.0, 2.0):
        toy.run(scale=scale)
    _, message = refused(verify, "--", reference) if reference == "zzz" else refused(verify, reference)
    assert message.startswith("A reference must fit exactly one artifact in ")


def test_gc__shows_names_and_sizes_before_it_removes(toy, said):
    old, new = toy.run().artifact, toy.run(scale=2.0).artifact
    text = said(gc, stdin="n\n")
    assert text.splitlines()[0].startswith(f"{old.name}  ")
    assert "Remove these 1 (" in text
    assert text.endswith("Nothing removed.\n")
    assert names(toy.store.artifacts()) == {old.path, new.path}
    said(gc, stdin="y\n")
    assert names(toy.store.artifacts()) == {new.path}
    assert said(gc, "--yes") == "Nothing to remove.\n"


def test_gc__removes_what_killed_runs_left_but_not_what_is_held(toy, said):
    left = open_draft(toy.store, "toy", "0" * 32).path
    with locked(toy.store, "toy", "1" * 32):
        held = open_draft(toy.store, "toy", "1" * 32).path
        old = held.with_name(f".old-{'1' * 32}")
        old.mkdir()
        said(gc, "--yes")
        assert held.exists()
        assert old.exists()
    assert not left.exists()
    said(gc, "--yes")
    assert not held.exists()
    assert not old.exists()


def test_gc__keeps_a_draft_that_is_taken_up_while_it_asks(toy, said, monkeypatch):
    path = open_draft(toy.store, "toy", "0" * 32).path
    lock = locked(toy.store, "toy", "0" * 32)
    monkeypatch.setattr(click, "confirm", lambda _: lock.__enter__() is not None)
    assert f"{path} is in use by now, and stays." in said(gc)
    lock.__exit__(None, None, None)
    assert path.exists()


def test_gc__looks_at_use_again_before_each_removal(toy, said, monkeypatch):
    """A run begins to read the second artifact while the first is removed."""
    artifacts = [toy.run(scale=float(number)).artifact for number in (1, 2, 3)]
    remove, taken = Store.remove, []
    lock = locked(toy.store, "toy", "0" * 32, uses=[artifacts[1].record.digest])

    def then_read(store, path):
        remove(store, path)
        taken.append(path)
        if len(taken) == 1:
            lock.__enter__()

    monkeypatch.setattr(Store, "remove", then_read)
    assert f"{artifacts[1].path} is in use by now, and stays." in said(gc, "--yes")
    lock.__exit__(None, None, None)
    assert taken == [artifacts[0].path]
    assert names(toy.store.artifacts()) == {artifacts[1].path, artifacts[2].path}


def test_stage_command__says_nothing_when_quiet(toy, call):
    result = call(stage_command(TOY), "--source", toy.source, "--quiet")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)
    result = call(stage_command(TOY), "--source", toy.source, "--quiet", "--json")
    assert json.loads(result.stdout)["status"] == "unchanged"
    assert result.stderr == ""


def test_status__prints_one_json_object(toy, said):
    first, child = toy.run().artifact, toy.run_child().artifact
    bad = toy.run(scale=2.0).artifact
    (bad.path / "artifact.json").write_text("{")
    (first.path / "parts/0.txt").unlink()
    open_draft(toy.store, "toy", "0" * 32)
    [line] = said(status, "--json").splitlines()
    values = json.loads(line)
    assert [(each["stage"], each["fingerprint"]) for each in values["artifacts"]] == [
        ("toy", first.record.fingerprint),
        ("child", child.record.fingerprint),
    ]
    assert values["artifacts"][0]["problems"] == {"parts/0.txt": "missing"}
    assert values["artifacts"][1]["inputs"]["toy"]["digest"] == first.record.digest
    assert values["artifacts"][1]["bytes"] == child.record.size
    assert list(values["unreadable"]) == [str(bad.path)]
    [draft] = [each for each in values["unfinished"] if each["fingerprint"] == "0" * 32]
    assert (draft["stage"], draft["held"]) == ("toy", False)


def test_verify__prints_one_json_object_and_fails_all_the_same(toy, call):
    sound, bad = toy.run().artifact, toy.run(scale=2.0).artifact
    assert json.loads(call(verify, "--json").stdout)["whole"]
    (bad.path / "parts/0.txt").write_text("other")
    result = call(verify, "--json")
    [line] = result.stdout.splitlines()
    values = json.loads(line)
    assert not values["whole"]
    assert [(each["path"], list(each["problems"])) for each in values["artifacts"]] == [
        (str(sound.path), []),
        (str(bad.path), ["parts/0.txt"]),
    ]
    assert f"{bad.name}: NOT WHOLE" in result.stderr
    assert isinstance(result.exception, ProtoRKDError)


def test_verify__lets_logs_gain_files(toy, said):
    artifact = toy.run().artifact
    (artifact.path / "logs" / "run.synced").write_text("")
    assert said(verify) == f"{artifact.name}: whole\n"


def test_gc__prints_one_json_object_and_asks_nothing(toy, said):
    old, new = toy.run().artifact, toy.run(scale=2.0).artifact
    for words, removed in ((("--json",), False), (("--json", "--yes"), True)):
        [line] = said(gc, *words).splitlines()
        [each] = json.loads(line)["garbage"]
        assert (each["path"], each["removed"]) == (str(old.path), removed)
        assert each["bytes"] > old.record.size
        assert old.path.exists() is not removed
    assert new.path.exists()
    assert json.loads(said(gc, "--json"))["garbage"] == []


def test_verify__takes_trust_in_code_with_repair_alone(toy, refused):
    toy.run()
    assert "--trust-remote-code must go with --repair" in refused(verify, "--trust-remote-code")[1]


def test_commands__leave_what_a_newer_protorkd_made_as_it_is(toy, said, refused):
    artifact = toy.run().artifact
    replace(artifact.record, schema_version=2).write(artifact.path)
    before = {path: path.read_bytes() for path in artifact.path.rglob("*") if path.is_file()}
    [line] = said(status).splitlines()
    assert f"OF A NEWER PROTORKD: {artifact.path / 'artifact.json'} must be of schema version 1 or older; got 2" in line
    assert "schema version 1" in json.loads(said(status, "--json"))["unreadable"][str(artifact.path)]
    for command, *words in (
        (verify,),
        (verify, "--repair"),
        (verify, artifact.path.name[:8], "--repair"),
        (gc, "--yes"),
        (gc, "--yes", "--drop", artifact.path.name),
        (stage_command(TOY), "--source", toy.source),
        (stage_command(TOY), "--source", toy.source, "--force"),
        (why_command(TOY), "--source", toy.source),
    ):
        text, message = refused(command, *words)
        assert "Update protorkd" in message
        assert "NOT WHOLE" not in text
    assert {path: path.read_bytes() for path in artifact.path.rglob("*") if path.is_file()} == before
    assert not list(toy.store.leftovers())


@pytest.fixture
def read_only(toy, monkeypatch):
    """Make the toy's store one that may only be read; root is asked for no permission."""

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    access = os.access

    def make():
        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
        for name in ("mkdir", "replace", "rename", "fsync"):
            monkeypatch.setattr(os, name, refuse)

    return make


@pytest.mark.parametrize("with_digests", [True, False])
def test_commands__work_on_a_store_that_may_only_be_read(toy, said, refused, read_only, tmp_path, with_digests):
    artifact = toy.run().artifact
    draft = open_draft(toy.store, "toy", "1" * 32)
    (toy.store.root / "toy" / (".lock-" + "1" * 32)).touch()
    if not with_digests:
        (toy.store.root / MEMO_NAME).unlink()
    moved = toy.source.rename(tmp_path / "moved.txt")
    read_only()
    assert artifact.name in said(status)
    assert "left by a killed run" in said(status)
    assert "would not run: unchanged" in said(why_command(TOY), "--source", moved)
    assert json.loads(said(stage_command(TOY), "--source", moved, "--json"))["status"] == "unchanged"
    assert "must be writable; Read-only file system" in refused(gc, "--yes")[1]
    assert draft.path.is_dir()
    assert (toy.store.root / MEMO_NAME).exists() == with_digests


def test_is_held__sees_a_holder_in_a_store_that_may_only_be_read(toy, read_only):
    with locked(toy.store, "toy", "1" * 32):
        read_only()
        assert is_held(toy.store, "toy", "1" * 32)
