"""What gc removes: it looks again before each removal, and reads records again only where something has come."""

import pytest
from toy_stage import Toy

from data_schemas.artifact_record import ArtifactRecord
from pipeline.maintenance.garbage import Garbage, find_garbage
from pipeline.store.locks import locked

pytestmark = pytest.mark.usefixtures("quiet_log")


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def garbage_of(toy):
    return Garbage(toy.store, kept_stages=["child"])


def test_garbage__reads_each_record_once_however_much_it_removes(toy, monkeypatch):
    made = [toy.run(scale=float(number)).artifact.path for number in range(1, 8)]
    read, seen = ArtifactRecord.read, []
    monkeypatch.setattr(ArtifactRecord, "read", lambda path: seen.append(path) or read(path))
    garbage = garbage_of(toy)
    assert garbage.paths == made[:-1]
    assert [garbage.remove(path) for path in garbage.paths] == [True] * 6
    assert sorted(seen) == sorted(made)
    assert [artifact.path for artifact in toy.store.artifacts()] == made[-1:]
    assert find_garbage(toy.store, kept_stages=["child"]) == []


def test_garbage__leaves_what_came_into_use_since_it_looked(toy):
    made = [toy.run(scale=float(number)).artifact for number in range(1, 7)]
    garbage = garbage_of(toy)
    child = toy.run_child(made[0].record.fingerprint).artifact
    with locked(toy.store, "child", "f" * 32, uses=[made[1].record.digest]) as hold:
        assert [garbage.remove(artifact.path) for artifact in made[:3]] == [False, False, True]
        hold.use(made[3].record.digest)
        assert garbage.remove(made[3].path) is False
        toy.run(scale=5.0)  # asked for again, it is the newest
        assert [garbage.remove(artifact.path) for artifact in made[4:]] == [False, True]
    assert {each.path for each in toy.store.artifacts()} == {*(made[n].path for n in (0, 1, 3, 4)), child.path}


def test_garbage__leaves_a_draft_that_is_gone_on_with_and_what_another_removed(toy):
    with pytest.raises(RuntimeError, match="as asked"):
        toy.run(fail_after=1)
    older, newest = toy.run(scale=2.0).artifact, toy.run(scale=3.0).artifact
    garbage = garbage_of(toy)
    draft = toy.store.draft_folder("toy", garbage.paths[0].name.removeprefix(".draft-"))
    assert garbage.paths == [draft, older.path]
    toy.store.remove(older.path)
    assert garbage.remove(older.path) is False
    toy.run()
    assert garbage.remove(draft) is False
    assert newest.path.exists()
