"""After a power cut at any moment the store opens, its artifacts are whole, and the same command ends as it would."""

import shutil

import pytest
import toy_stage
from power_cuts import PowerCuts, lay_out
from toy_stage import Toy

from data_schemas import files
from data_schemas.errors import ProtoRKDError
from pipeline.commands.artifacts import artifact_problems
from pipeline.maintenance.garbage import find_garbage
from pipeline.store.store import Store


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Two stages, a store and a source, with a memory of digests that no test waits for."""
    toy = Toy(tmp_path)
    (toy.store.root / "toy").mkdir(
        parents=True
    )  # SQLite, whose memory of digests lies beside it, waits for the disk unseen
    monkeypatch.setattr(toy_stage.time, "time_ns", lambda: 0)
    return toy


@pytest.fixture(params=[4, pytest.param(1, marks=pytest.mark.slow)], ids=["a fourth", "all"])
def every(request):
    """Open one of so many states."""
    return request.param


def states_of(toy, work):
    cuts = PowerCuts(toy.store.root / "toy")  # the memory of digests lies beside it: how SQLite waits cannot be seen
    with cuts.watched():
        work()
    assert cuts.num_operations > 10
    return cuts.states


def rerun(tree, tmp_path, toy, *, damage=()):
    """Open a state as a store, hold it to what every state must be, and run the same command on it.

    Args:
        damage: what was wrong with the artifact before the run that was cut.
    """
    again = Toy.__new__(Toy)
    lay_out(tree, tmp_path / "after" / "toy")
    again.store, again.source = Store(tmp_path / "after"), toy.source
    try:
        for artifact in again.store.artifacts():
            assert set(artifact_problems(artifact)) <= set(damage), sorted(tree)
        find_garbage(again.store, kept_stages=[])
        outcome = again.run()
        assert artifact_problems(outcome.artifact) == {}
        return outcome.artifact.record
    finally:
        shutil.rmtree(tmp_path / "after")


def test_power_cut__in_a_first_run_leaves_the_artifact_whole_or_not_at_all(toy, tmp_path, every):
    states = states_of(toy, toy.run)
    digest = toy.run().artifact.record.digest
    assert len(states) > 50
    for tree in states[::every]:
        assert rerun(tree, tmp_path, toy).digest == digest


def test_power_cut__while_a_damaged_artifact_is_mended(toy, tmp_path, every):
    artifact = toy.run().artifact
    (artifact.path / "parts/1.txt").unlink()
    for tree in states_of(toy, toy.run)[::every]:
        assert rerun(tree, tmp_path, toy, damage=["parts/1.txt", "journal.jsonl"]).digest == artifact.record.digest


def test_power_cut__in_a_forced_run_leaves_the_old_artifact_or_the_new_one(toy, tmp_path, every):
    digest = toy.run().artifact.record.digest
    for tree in states_of(toy, lambda: toy.run(force=True))[::every]:
        assert rerun(tree, tmp_path, toy).digest == digest
        # until the new one has its name, one of both is there whole, whatever that folder is called
        assert any(path.endswith("artifact.json") for path in tree)


def test_power_cut__is_noticed_by_the_test_where_a_commit_does_not_wait_for_the_disk(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fsync", lambda path: None)  # as write_atomic calls it
    states = states_of(toy, toy.run)
    assert any(is_wrong(tree, tmp_path, toy) for tree in reversed(states))


def is_wrong(tree, tmp_path, toy):
    try:
        rerun(tree, tmp_path, toy)
    except (AssertionError, ProtoRKDError):
        return True
    return False
