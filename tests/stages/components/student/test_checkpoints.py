"""Weights that a distillation kept: of one that is done, and of one that is in the making, by its journal."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from workbench import DISTILL, Cli, Pairs, at_step, power_cut

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file, write_atomic
from data_schemas.images.student_checkpoint import (
    WEIGHTS_NAME,
    Preprocessing,
    StudentConfig,
    TeacherRecord,
    checkpoint_path,
)
from pipeline.store.draft import Draft, commit, open_draft
from pipeline.store.locks import locked
from pipeline.store.store import Artifact, Store
from stages.components.student.checkpoints import (
    DistillRun,
    StudentWeights,
    find_run,
    finished_checkpoints,
    running_checkpoints,
)

CONFIG = StudentConfig(
    backbone="resnet18",
    embedding_dim=16,
    projection_layers=1,
    preprocessing=Preprocessing(image_size=32),
    teacher=TeacherRecord(identity="teacher", dim=16, recipe={}),
    losses={"simreg": 1.0},
)
FIRST, SECOND = "a1" * 16, "b2" * 16


@pytest.fixture
def opened(store: Path) -> Store:
    return Store(store)


def begin(store: Store, fingerprint: str = FIRST, *, epochs: tuple[int, ...] = (), fresh: bool = False) -> Draft:
    """Return a distillation that has kept weights, which here are but a word, after some epochs."""
    draft = open_draft(store, "distill", fingerprint, fresh=fresh)
    CONFIG.write(draft.path)
    for epoch in epochs:
        write_atomic(draft.path / checkpoint_path(epoch), f"after {epoch}".encode())
        draft.adopt(checkpoint_path(epoch))
    return draft


def finish(store: Store, draft: Draft, *, last: str = "", **params: int) -> Artifact:
    fingerprint = draft.path.name.removeprefix(".draft-")
    if last:
        write_atomic(draft.path / WEIGHTS_NAME, last.encode())
    record = ArtifactRecord("distill", 2, fingerprint, "", params, {}, (), {}, {}, (), "2026", {})
    return Artifact(store.folder("distill", fingerprint), commit(store, draft, record))


def names(students: list[Any]) -> list[str]:
    return [student.name for student in students]


def test_finished_checkpoints__of_last_are_what_the_distillation_ended_with(opened: Store) -> None:
    artifact = finish(opened, begin(opened, epochs=(1, 2)), last="after 2", epochs=2)
    [student] = finished_checkpoints(artifact, "last")
    assert (student.name, student.epoch, student.fingerprint) == ("last", 2, FIRST)
    assert student.weights == artifact.path / WEIGHTS_NAME
    assert student.sha256 == hash_file(student.weights)
    assert student.config == CONFIG
    assert student.artifact == artifact
    assert student.folder == artifact.path


def test_finished_checkpoints__of_all_are_in_the_order_of_epochs(opened: Store) -> None:
    artifact = finish(opened, begin(opened, epochs=(10, 1, 2)), last="after 10")
    students = finished_checkpoints(artifact, "all")
    assert names(students) == ["epoch_1", "epoch_2", "epoch_10"]
    assert [student.epoch for student in students] == [1, 2, 10]
    assert [student.weights.read_text() for student in students] == ["after 1", "after 2", "after 10"]
    assert all(student.sha256 == hash_file(student.weights) for student in students)
    assert {student.folder for student in students} == {artifact.path}


@pytest.mark.parametrize(("epochs", "expected"), [((1, 2), ["epoch_1", "epoch_2", "last"]), ((), ["last"])])
def test_finished_checkpoints__of_all_end_with_last_where_no_epoch_has_its_bytes(
    opened: Store, epochs: tuple[int, ...], expected: list[str]
) -> None:
    students = finished_checkpoints(finish(opened, begin(opened, epochs=epochs), last="averaged"), "all")
    assert names(students) == expected
    assert students[-1].epoch is None


@pytest.mark.parametrize(("which", "expected"), [("2", [2]), ("3,1", [1, 3]), (" 1, 1 ", [1])])
def test_finished_checkpoints__are_chosen_by_epoch(opened: Store, which: str, expected: list[int]) -> None:
    artifact = finish(opened, begin(opened, epochs=(1, 2, 3)), last="after 3")
    assert [student.epoch for student in finished_checkpoints(artifact, which)] == expected


@pytest.mark.parametrize("which", ["4", "1,4", "first", "", "1,", "-1", "all,1"])
def test_finished_checkpoints__names_those_that_there_are(opened: Store, which: str) -> None:
    artifact = finish(opened, begin(opened, epochs=(1, 2)), last="after 2")
    with pytest.raises(ProtoRKDError, match=r"--checkpoints must be last, all, or epochs .*Kept: 1, 2\."):
        finished_checkpoints(artifact, which)


@pytest.mark.parametrize("which", ["last", "all"])
def test_finished_checkpoints__refuses_a_folder_without_last_weights(opened: Store, which: str) -> None:
    artifact = finish(opened, begin(opened, epochs=(1,)))
    with pytest.raises(ProtoRKDError, match="its record names none"):
        finished_checkpoints(artifact, which)


def test_finished_checkpoints__refuses_weights_that_are_cut(opened: Store) -> None:
    artifact = finish(opened, begin(opened, epochs=(1, 2)), last="after 2")
    (artifact.path / checkpoint_path(1)).write_text("aft")
    assert names(finished_checkpoints(artifact, "2")) == ["epoch_2"]
    with pytest.raises(ProtoRKDError, match=r"epoch_1\.safetensors must be as it was written"):
        finished_checkpoints(artifact, "all")


def test_identity__is_the_same_for_equal_bytes_whatever_their_name(opened: Store) -> None:
    draft = begin(opened, epochs=(1, 2))
    running = [student.identity for student in running_checkpoints(opened, FIRST)]
    artifact = finish(opened, draft, last="after 2")
    assert [student.identity for student in finished_checkpoints(artifact, "all")] == running
    [last] = finished_checkpoints(artifact, "last")
    assert last.identity == running[1] != running[0]


def test_identity__is_that_of_before_for_students_of_before() -> None:
    student = StudentWeights(CONFIG, Path("w"), sha256="0" * 64, name="last", epoch=None, fingerprint=FIRST)
    assert student.identity == "58e123891699a1fe84d0d0c3cc733e641e0b980862d3005ddb16a5bf82b2d984"
    assert student.pass_identity == student.identity
    assert dataclasses.replace(student, config=dataclasses.replace(CONFIG, pooling="cls")).identity != student.identity


def test_running_checkpoints__are_those_that_the_journal_calls_whole(opened: Store) -> None:
    draft = begin(opened, epochs=(2, 1))
    (draft.path / checkpoint_path(3)).write_text("half of it")
    with locked(opened, "distill", FIRST):
        students = running_checkpoints(opened, FIRST)
    assert names(students) == ["epoch_1", "epoch_2"]
    assert [student.weights.read_text() for student in students] == ["after 1", "after 2"]
    assert students[0].sha256 == hash_file(students[0].weights)
    assert (students[0].config, students[0].fingerprint, students[0].artifact) == (CONFIG, FIRST, None)


def test_running_checkpoints__leave_out_what_has_other_bytes_than_the_journal_says(opened: Store) -> None:
    draft = begin(opened, epochs=(1, 2, 3))
    assert len(running_checkpoints(opened, FIRST)) == 3
    (draft.path / checkpoint_path(1)).unlink()
    write_atomic(draft.path / checkpoint_path(2), b"after x")
    assert names(running_checkpoints(opened, FIRST)) == ["epoch_3"]
    draft.adopt(checkpoint_path(2))
    assert names(running_checkpoints(opened, FIRST)) == ["epoch_2", "epoch_3"]


def test_running_checkpoints__are_none_before_the_first_and_once_the_draft_is_gone(opened: Store) -> None:
    assert running_checkpoints(opened, FIRST) == []
    draft = begin(opened)
    assert running_checkpoints(opened, FIRST) == []
    (draft.path / "student.json").write_text("{")
    assert running_checkpoints(opened, FIRST) == []
    shutil.rmtree(draft.path)
    finish(opened, begin(opened, epochs=(1,)), last="after 1")
    assert running_checkpoints(opened, FIRST) == []


def test_places__lead_to_the_weights_when_the_draft_has_become_an_artifact(opened: Store) -> None:
    draft = begin(opened, epochs=(1,))
    [student] = running_checkpoints(opened, FIRST)
    assert student.places[0] == student.weights == draft.path / checkpoint_path(1)
    artifact = finish(opened, draft, last="after 1")
    assert student.folder == artifact.path
    assert not student.places[0].exists()
    assert student.places[1].read_text() == "after 1"
    [last] = finished_checkpoints(artifact, "last")
    assert set(last.places) == {last.weights}


def test_find_run__takes_the_newest_that_runs_before_all_others(opened: Store) -> None:
    begin(opened, FIRST)
    newer = begin(opened, SECOND)
    os.utime(newer.path, (2e9, 2e9))
    assert find_run(opened, None) == DistillRun(SECOND, "stopped")
    with locked(opened, "distill", FIRST):
        assert find_run(opened, None) == DistillRun(FIRST, "running")
        with locked(opened, "distill", SECOND):
            assert find_run(opened, None) == DistillRun(SECOND, "running")


def test_find_run__takes_the_newest_of_the_stopped_and_the_done_where_none_runs(opened: Store) -> None:
    artifact = finish(opened, begin(opened, FIRST, epochs=(1,)), last="after 1")
    stopped = begin(opened, SECOND)
    os.utime(stopped.path, (1e9, 1e9))
    assert find_run(opened, None) == DistillRun(FIRST, "done", artifact)
    os.utime(stopped.path, (2e9, 2e9))
    assert find_run(opened, None) == DistillRun(SECOND, "stopped")


def test_find_run__takes_what_was_last_asked_for_whatever_its_folder_says(opened: Store) -> None:
    first = finish(opened, begin(opened, FIRST, epochs=(1,)), last="after 1")
    second = finish(opened, begin(opened, SECOND, epochs=(1,)), last="after 1")
    os.utime(first.path, (2e9, 2e9))
    os.utime(second.path, (1e9, 1e9))
    assert find_run(opened, None) == DistillRun(SECOND, "done", second)
    opened.note_asked(first, at="2100-01-01T00:00:00.000000+00:00")
    os.utime(first.path, (1e9, 1e9))
    assert find_run(opened, None) == DistillRun(FIRST, "done", first)
    (second.path / "artifact.json").write_text("{")
    with pytest.raises(ProtoRKDError, match=r"artifact\.json"):
        find_run(opened, None)


def test_find_run__takes_the_one_begun_last_of_those_that_run_or_were_killed(opened: Store) -> None:
    drafts = [begin(opened, fingerprint) for fingerprint in (SECOND, FIRST)]
    with locked(opened, "distill", SECOND), locked(opened, "distill", FIRST):
        os.utime(drafts[0].path, (2e9, 2e9))
        os.utime(drafts[1].path, (1e9, 1e9))
        assert find_run(opened, None) == DistillRun(FIRST, "running")
        notes = {path: path.read_text() for path in (opened.root / "distill").glob(".holder-*")}
    for path, text in notes.items():  # as killed runs leave them
        path.write_text(text)
    assert find_run(opened, None) == DistillRun(FIRST, "stopped")


def test_find_run__follows_a_run_to_its_end(opened: Store) -> None:
    with locked(opened, "distill", FIRST):
        draft = begin(opened, FIRST)
        assert find_run(opened, FIRST).state == "running"
    assert find_run(opened, FIRST[:5]).state == "stopped"
    artifact = finish(opened, draft, last="after 1")
    assert find_run(opened, FIRST) == find_run(opened, str(artifact.path)) == DistillRun(FIRST, "done", artifact)
    with locked(opened, "distill", FIRST):  # made anew, by force
        begin(opened, FIRST, fresh=True)
        assert find_run(opened, FIRST).state == "running"
    assert find_run(opened, FIRST) == DistillRun(FIRST, "done", artifact)


def test_find_run__lists_what_there_is_for_a_name_that_fits_none_or_several(opened: Store) -> None:
    with pytest.raises(ProtoRKDError, match="must hold a distillation; it has none"):
        find_run(opened, None)
    with pytest.raises(ProtoRKDError, match="Known: none"):
        find_run(opened, "a1")
    begin(opened, FIRST)
    begin(opened, FIRST[:-1] + "0")
    with pytest.raises(ProtoRKDError, match=rf"must name a distillation in .*got 'ff'\. Known: {FIRST[:12]}, "):
        find_run(opened, "ff")
    with pytest.raises(ProtoRKDError, match="must name exactly one distillation"):
        find_run(opened, "a1")


def test_checkpoints__of_a_distillation_are_found_while_it_trains_and_are_the_same_in_the_end(
    encoded: Pairs, run_cli: Cli, store: Path
) -> None:
    opened, seen = Store(store), []

    def look() -> None:
        run = find_run(opened, None)
        seen.append((run.state, running_checkpoints(opened, run.fingerprint)))

    with at_step(1, look), at_step(4, look), at_step(5, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*DISTILL)
    (first_state, nothing), (second_state, [one]) = seen
    assert (first_state, second_state, nothing, one.name) == ("running", "running", [], "epoch_1")
    stopped = find_run(opened, None)
    assert stopped.state == "stopped"
    assert running_checkpoints(opened, stopped.fingerprint) == [one]
    outcome = run_cli(*DISTILL)
    done = find_run(opened, stopped.fingerprint)
    assert done.artifact is not None
    assert (done.state, str(done.artifact.path)) == ("done", outcome["path"])
    students = finished_checkpoints(done.artifact, "all")
    assert names(students) == ["epoch_1", "epoch_2"]
    assert (students[0].identity, students[0].config) == (one.identity, one.config)
    assert students[1].identity == finished_checkpoints(done.artifact, "last")[0].identity
