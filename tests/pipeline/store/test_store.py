import pytest

from data_schemas.errors import ProtoRKDError
from pipeline.store.draft import open_draft
from pipeline.store.store import OLD_PREFIX, Store


@pytest.fixture
def made(toy):
    """Three artifacts, oldest first."""
    return [toy.run(num_parts=number).artifact for number in (1, 2, 3)]


def damage_record(artifact):
    (artifact.path / "artifact.json").write_text("{")


def test_find__opens_what_was_asked_for(toy, made):
    assert toy.store.find("toy", made[1].record.fingerprint) == made[1]
    assert toy.store.find("toy", "0" * 32) is None
    assert toy.store.find("child", made[1].record.fingerprint) is None


def test_artifacts__are_listed_oldest_first(toy, made):
    child = toy.run_child().artifact
    assert toy.store.artifacts("toy") == made
    assert toy.store.artifacts() == [*made, child]
    assert toy.store.artifacts("other") == []


def test_artifacts__of_a_store_that_is_not_there_are_none(tmp_path):
    store = Store(tmp_path / "absent")
    assert store.artifacts() == store.artifacts("toy") == list(store.leftovers()) == []
    assert not store.root.exists()


def test_artifacts__pass_over_a_damaged_record_which_unreadable_names(toy, made):
    damage_record(made[1])
    assert toy.store.artifacts("toy") == [made[0], made[2]]
    assert list(toy.store.unreadable()) == list(toy.store.unreadable("toy")) == [made[1].path]
    assert toy.store.unreadable("child") == {}


def test_resolve__takes_a_fingerprint_its_beginning_or_a_path(toy, made):
    fingerprint = made[0].record.fingerprint
    for reference in (fingerprint, fingerprint[:8], str(made[0].path)):
        assert toy.store.resolve(reference, stage="toy", flag="--toy") == made[0]


def test_resolve__takes_a_path_in_another_store(toy, made, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    made[0].path.rename(elsewhere)
    assert Store(tmp_path / "other").resolve(str(elsewhere), stage="toy", flag="--toy").record == made[0].record


def test_resolve__takes_the_newest_when_none_is_named(toy, made):
    assert toy.store.resolve(None, stage="toy", flag="--toy") == made[-1]
    forced = toy.run(num_parts=1, force=True).artifact
    assert toy.store.resolve(None, stage="toy", flag="--toy") == forced


def test_resolve__says_that_there_is_none(toy):
    with pytest.raises(ProtoRKDError, match=r"store must hold an artifact of toy; it has none\. Run toy first\."):
        toy.store.resolve(None, stage="toy", flag="--toy")


def test_resolve__refuses_a_beginning_that_fits_two(toy, made):
    with pytest.raises(ProtoRKDError, match=r"--toy must name exactly one artifact of toy .*; got ''") as caught:
        toy.store._by_prefix("", stage="toy", flag="--toy")
    assert all(artifact.record.fingerprint[:12] in str(caught.value) for artifact in made)


def test_resolve__lists_the_known_ones_when_none_fits(toy, made):
    with pytest.raises(ProtoRKDError, match=r"--toy must name an artifact of toy .*; got 'xyz'\. Known: ") as caught:
        toy.store.resolve("xyz", stage="toy", flag="--toy")
    assert made[0].record.fingerprint[:12] in str(caught.value)


def test_resolve__refuses_a_path_to_another_stage(toy, made):
    child = toy.run_child().artifact
    with pytest.raises(ProtoRKDError, match="--toy must name an artifact of toy; got one of child"):
        toy.store.resolve(str(child.path), stage="toy", flag="--toy")


def test_resolve__refuses_a_folder_that_is_no_artifact(toy, made, tmp_path):
    with pytest.raises(ProtoRKDError, match=r"artifact\.json must exist"):
        toy.store.resolve(str(tmp_path), stage="toy", flag="--toy")


def test_resolve__refuses_to_guess_past_a_damaged_record(toy, made):
    damage_record(made[1])
    for reference in (None, made[1].record.fingerprint[:8]):
        with pytest.raises(ProtoRKDError, match=rf"{made[1].path.name}/artifact\.json must be JSON"):
            toy.store.resolve(reference, stage="toy", flag="--toy")
    assert toy.store.resolve(made[0].record.fingerprint[:8], stage="toy", flag="--toy") == made[0]


def test_leftovers__are_drafts_old_folders_and_folders_without_a_record(toy, made):
    draft = open_draft(toy.store, "toy", "0" * 32).path
    old = toy.store.root / "toy" / f"{OLD_PREFIX}{'1' * 32}"
    made[0].path.rename(old)
    (made[1].path / "artifact.json").unlink()
    assert sorted(toy.store.leftovers()) == sorted([draft, old, made[1].path])


def test_remove__leaves_nothing(toy, made):
    draft = open_draft(toy.store, "toy", "0" * 32).path
    for path in (draft, made[0].path):
        toy.store.remove(path)
    assert list(toy.store.leftovers()) == []
    assert toy.store.artifacts() == made[1:]


def test_remove__killed_half_way_leaves_no_half_artifact(toy, made, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (path / "artifact.json").unlink())
        toy.store.remove(made[0].path)
    assert not made[0].path.exists()
    [left] = toy.store.leftovers()
    toy.store.remove(left)
    assert list(toy.store.leftovers()) == []


def test_require_whole__looks_at_sizes_or_at_bytes_of_the_files_named(toy):
    artifact = toy.run().artifact
    artifact.require_whole(read=True)
    part = artifact.path / "parts/1.txt"
    part.write_bytes(part.read_bytes()[::-1])
    artifact.require_whole()
    artifact.require_whole(("summary", "parts/0"), read=True)
    with pytest.raises(ProtoRKDError, match=r"parts/1\.txt must be as it was written; it has other.*and --force\."):
        artifact.require_whole(read=True)
    part.unlink()
    with pytest.raises(ProtoRKDError, match=r"it is missing\. Run toy again with the same options\."):
        artifact.require_whole(("parts",))
