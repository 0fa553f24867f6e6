"""What every store keeps, wherever it lies: a store says how it is opened, and how what others read is damaged."""

import json
from abc import ABC, abstractmethod
from dataclasses import replace

import pytest
import toy_stage
from click.testing import CliRunner
from toy_stage import CHILD, TOY, Toy

from data_schemas.errors import NewerRecordError, ProtoRKDError
from pipeline.commands.artifacts import artifact_problems, gc
from pipeline.store import draft
from pipeline.store.draft import open_draft
from pipeline.store.locks import locked
from pipeline.store.store import OLD_PREFIX, Artifact, Store

FLAG = {"stage": "toy", "flag": "--toy"}


@pytest.mark.usefixtures("quiet_log")
class StoreContract(ABC):
    """Two stages run on ``toy``; ``other`` is the same store, as somebody sees it who opens it for the first time.

    A store has a fixture ``open_store``: a function that opens the test's one store, for somebody of a name.
    """

    @abstractmethod
    def overwrite(self, store: Store, artifact: Artifact, path: str, data: bytes) -> None:
        """Replace the bytes of an artifact's file, or of its record, where others read them."""

    def words(self, store: Store) -> list[str]:
        """Name the store on a command line."""
        return ["--store", str(store)]

    @pytest.fixture
    def toy(self, toy, open_store):
        toy.store = open_store("one")
        return toy

    @pytest.fixture
    def other(self, toy, open_store):
        found = Toy.__new__(Toy)
        found.store, found.source = open_store("two"), toy.source
        return found

    @pytest.fixture
    def made(self, toy):
        """Three artifacts, oldest first."""
        return [toy.run(num_parts=number).artifact for number in (1, 2, 3)]

    @pytest.fixture
    def collect(self, toy):
        """Remove what nothing refers to; what was said, and the error of a refusal."""

        def run(*words):
            words = [*words, "--yes", *self.words(toy.store)]
            done = CliRunner().invoke(gc, words, obj=(TOY, replace(CHILD, keep=True)))
            assert done.exception is None or isinstance(done.exception, ProtoRKDError), done.exception
            return done.output, str(done.exception)

        return run

    def test_find__opens_what_was_asked_for(self, toy, made):
        assert toy.store.find("toy", made[1].record.fingerprint) == made[1]
        assert toy.store.find("toy", "0" * 32) is None
        assert toy.store.find("child", made[1].record.fingerprint) is None

    def test_find__has_the_files_of_what_was_made_elsewhere(self, made, other):
        found = other.store.find("toy", made[1].record.fingerprint)
        assert found.record == made[1].record
        assert artifact_problems(found) == {}

    def test_artifacts__are_listed_oldest_first(self, toy, made, other):
        child = toy.run_child().artifact
        assert toy.store.artifacts("toy") == made
        assert toy.store.artifacts() == [*made, child]
        assert toy.store.artifacts("other") == []
        assert records(other.store.artifacts()) == records([*made, child])

    def test_artifacts__of_a_store_that_is_not_there_are_none(self, open_store):
        store = open_store("three")
        assert store.artifacts() == store.artifacts("toy") == list(store.leftovers()) == []
        assert not store.root.exists()

    def test_artifacts__pass_over_a_damaged_record_which_unreadable_names(self, made, other):
        self.overwrite(other.store, made[1], "artifact.json", b"{")
        assert records(other.store.artifacts("toy")) == records([made[0], made[2]])
        where = other.store.folder("toy", made[1].record.fingerprint)
        assert list(other.store.unreadable()) == list(other.store.unreadable("toy")) == [where]
        assert other.store.unreadable("child") == {}

    def test_find__refuses_what_a_newer_protorkd_made(self, made, other):
        data = json.dumps({"schema_version": 99}).encode()
        self.overwrite(other.store, made[1], "artifact.json", data)
        where = other.store.folder("toy", made[1].record.fingerprint)
        assert isinstance(other.store.unreadable()[where], NewerRecordError)
        with pytest.raises(NewerRecordError):
            other.store.find("toy", made[1].record.fingerprint)

    def test_fetch__has_the_files_of_what_is_listed(self, made, other):
        for artifact in other.store.artifacts():
            assert artifact_problems(other.store.fetch(artifact)) == {}

    def test_read_file__reads_one_file_of_what_is_listed_and_proves_it(self, made, other):
        store = other.store
        [artifact] = [each for each in store.artifacts() if each.path.name == made[0].path.name]
        assert store.read_file(artifact, "summary.txt") == b"1 parts"
        with pytest.raises(ProtoRKDError, match=r"must have a file none\.txt; it has none\. Run toy again"):
            store.read_file(artifact, "none.txt")
        self.overwrite(store, artifact, "summary.txt", b"2 parts")
        with pytest.raises(ProtoRKDError, match="must be as it was written; it has other bytes"):
            store.read_file(artifact, "summary.txt")

    def test_share__leaves_what_is_there_as_it_is(self, toy, made, other):
        toy.store.check_writable()
        assert toy.store.share(made[0]) == made[0]
        assert records(other.store.artifacts()) == records(made)

    def test_resolve__takes_a_fingerprint_its_beginning_or_a_path(self, toy, made, other):
        fingerprint = made[0].record.fingerprint
        for reference in (fingerprint, fingerprint[:8], str(made[0].path)):
            assert toy.store.resolve(reference, **FLAG) == made[0]
            found = other.store.resolve(reference, **FLAG)
            assert (found.record, artifact_problems(found)) == (made[0].record, {})

    def test_resolve__takes_a_path_in_another_store(self, toy, made, open_store, tmp_path):
        elsewhere = made[0].path.rename(tmp_path / "elsewhere")
        assert open_store("three").resolve(str(elsewhere), **FLAG) == Artifact(elsewhere, made[0].record)

    def test_resolve__takes_the_newest_when_none_is_named(self, toy, made, other):
        assert other.store.resolve(None, **FLAG).record == made[-1].record
        assert toy.store.resolve(None, **FLAG) == made[-1]
        forced = toy.run(num_parts=1, force=True).artifact
        assert toy.store.resolve(None, **FLAG) == forced

    def test_resolve__takes_what_was_last_asked_for(self, toy, made, other):
        """Asked for again, an older artifact is the newest for all, though nothing of it changes."""
        before = {path: path.read_bytes() for path in made[0].path.rglob("*") if path.is_file()}
        assert toy.run(num_parts=1).status == "unchanged"
        for store in (toy.store, other.store):
            assert store.resolve(None, **FLAG).record == made[0].record
            assert records(store.artifacts()) == records([made[1], made[2], made[0]])
        assert {path: path.read_bytes() for path in made[0].path.rglob("*") if path.is_file()} == before
        assert other.run(num_parts=2).status == "unchanged"
        for store in (toy.store, other.store):
            assert store.resolve(None, **FLAG).record == made[1].record
        newer = toy.run(num_parts=4).artifact
        assert other.store.resolve(None, **FLAG).record == newer.record

    def test_resolve__takes_what_was_made_anew_with_the_same_bytes(self, toy, made, other):
        forced = toy.run(num_parts=1, force=True).artifact
        assert forced.record.digest == made[0].record.digest
        for store in (toy.store, other.store):
            assert store.resolve(None, **FLAG).record.fingerprint == forced.record.fingerprint

    def test_run__writes_nothing_when_the_newest_is_asked_for_again(self, toy, made):
        before = {path: path.stat().st_mtime_ns for path in (toy.store.root / "toy").rglob("*")}
        assert toy.run(num_parts=3).status == "unchanged"
        assert {path: path.stat().st_mtime_ns for path in (toy.store.root / "toy").rglob("*")} == before

    def test_resolve__says_that_there_is_none(self, toy):
        with pytest.raises(ProtoRKDError, match=r"store must hold an artifact of toy; it has none\. Run toy first\."):
            toy.store.resolve(None, **FLAG)

    def test_resolve__refuses_a_beginning_that_fits_two(self, toy, made):
        with pytest.raises(ProtoRKDError, match=r"--toy must name exactly one artifact of toy .*; got ''") as caught:
            toy.store._by_prefix("", **FLAG)
        assert all(artifact.record.fingerprint[:12] in str(caught.value) for artifact in made)

    def test_resolve__names_what_it_does_not_know_and_lists_what_it_does(self, made, other):
        with pytest.raises(
            ProtoRKDError, match=r"--toy must name an artifact of toy .*; got 'xyz'\. Known: "
        ) as caught:
            other.store.resolve("xyz", **FLAG)
        assert str(other.store) in str(caught.value)
        assert all(artifact.record.fingerprint[:12] in str(caught.value) for artifact in made)

    def test_resolve__refuses_a_path_to_another_stage(self, toy, made):
        child = toy.run_child().artifact
        with pytest.raises(ProtoRKDError, match="--toy must name an artifact of toy; got one of child"):
            toy.store.resolve(str(child.path), **FLAG)

    def test_resolve__refuses_a_folder_that_is_no_artifact(self, toy, made, tmp_path):
        with pytest.raises(ProtoRKDError, match=r"artifact\.json must exist"):
            toy.store.resolve(str(tmp_path), **FLAG)

    def test_resolve__refuses_to_guess_past_a_damaged_record(self, made, other):
        self.overwrite(other.store, made[1], "artifact.json", b"{")
        fingerprint = made[1].record.fingerprint
        for reference in (None, fingerprint, fingerprint[:8]):
            with pytest.raises(ProtoRKDError, match=rf"{fingerprint}\S*\.json must be "):
                other.store.resolve(reference, **FLAG)
        assert other.store.resolve(made[0].record.fingerprint[:8], **FLAG).record == made[0].record

    @pytest.mark.parametrize(("data", "got"), [(b"0 1.0 None wordS", "other bytes"), (b"0", "1 bytes instead")])
    def test_artifact__that_is_damaged_is_refused(self, made, other, data, got):
        self.overwrite(other.store, made[0], "parts/0.txt", data)
        with pytest.raises(ProtoRKDError, match=rf"parts/0\.txt must be as it was written; it has {got}"):
            other.store.find("toy", made[0].record.fingerprint).require_whole(read=True)

    def test_run__finds_what_was_made_elsewhere_and_works_on_it(self, toy, other):
        made = toy.run().artifact
        found, child = other.run(), other.run_child()
        assert (found.status, found.artifact.record) == ("unchanged", made.record)
        assert child.artifact.record.inputs["toy"].digest == made.record.digest
        assert toy.run_child().status == "unchanged"

    def test_run__that_fails_leaves_nothing_to_be_found_and_is_gone_on_with(self, toy, other):
        with pytest.raises(RuntimeError, match="as asked"):
            toy.run(fail_after=2)
        assert toy.store.artifacts() == other.store.artifacts() == []
        [left] = toy.store.leftovers()
        outcome = toy.run()
        assert outcome.artifact.record.counts == {"made": 1}
        assert not left.exists()
        assert records(other.store.artifacts()) == [outcome.artifact.record]

    def test_run__killed_before_its_rename_leaves_nothing_to_be_found_and_is_finished(self, toy, other, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(draft, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                toy.run()
        assert toy.store.artifacts() == other.store.artifacts() == []
        assert artifact_problems(toy.run().artifact) == {}
        assert len(other.store.artifacts()) == 1

    def test_run__that_is_forced_replaces_what_is_there_only_when_it_is_whole(self, toy, other, monkeypatch):
        first = toy.run().artifact
        with pytest.raises(RuntimeError, match="as asked"):
            other.run(force=True, fail_after=1)
        assert records(toy.store.artifacts()) == [first.record]
        assert artifact_problems(toy.run().artifact) == {}
        monkeypatch.setattr(toy_stage, "TOY", replace(TOY, run=with_more))
        second = other.run(force=True).artifact
        assert second.record.digest != first.record.digest
        assert toy.store.resolve(None, **FLAG).record == second.record
        assert (toy.store.resolve(None, **FLAG).path / "more.txt").read_text() == "more"

    def test_leftovers__are_drafts_old_folders_and_folders_without_a_record(self, toy, made):
        unfinished = open_draft(toy.store, "toy", "0" * 32).path
        old = toy.store.root / "toy" / f"{OLD_PREFIX}{'1' * 32}"
        made[0].path.rename(old)
        (made[1].path / "artifact.json").unlink()
        assert sorted(toy.store.leftovers()) == sorted([unfinished, old, made[1].path])

    def test_remove__leaves_nothing(self, toy, made, other):
        unfinished = open_draft(toy.store, "toy", "0" * 32).path
        for path in (unfinished, made[0].path):
            toy.store.remove(path)
        assert list(toy.store.leftovers()) == []
        assert toy.store.artifacts() == made[1:]
        assert records(other.store.artifacts()) == records(made[1:])

    def test_remove__killed_half_way_leaves_no_half_artifact(self, toy, made, other, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda path: (path / "artifact.json").unlink())
            toy.store.remove(made[0].path)
        assert not made[0].path.exists()
        assert records(other.store.artifacts()) == records(made[1:])
        [left] = toy.store.leftovers()
        toy.store.remove(left)
        assert list(toy.store.leftovers()) == []

    def test_gc__keeps_what_is_referred_to_the_newest_and_the_stages_that_stay(self, toy, other, collect):
        used, child = toy.run().artifact, toy.run_child().artifact
        unused = toy.run(scale=2.0).artifact
        newest, other_child = toy.run(scale=3.0).artifact, toy.run_child().artifact
        assert unused.record.fingerprint[:12] in collect()[0]
        assert records(other.store.artifacts()) == records([used, child, newest, other_child])
        assert "Nothing to remove" in collect()[0]

    def test_gc__keeps_what_a_live_run_reads(self, toy, other, collect):
        read, newest = toy.run().artifact, toy.run(scale=2.0).artifact
        with locked(toy.store, "child", "1" * 32, uses=[read.record.digest]):
            assert "Nothing to remove" in collect()[0]
        collect()
        assert records(other.store.artifacts()) == [newest.record]

    def test_gc__drops_what_is_named_unless_something_was_made_from_it(self, toy, other, collect):
        used, child = toy.run().artifact, toy.run_child().artifact
        reference, child_reference = used.record.fingerprint[:8], child.record.fingerprint[:8]
        _, refusal = collect("--drop", reference)
        assert refusal.startswith(f"--drop must name an artifact that nothing was made from; got {used.name}.")
        assert records(other.store.artifacts()) == records([used, child])
        collect("--drop", reference, "--drop", child_reference)
        assert toy.store.artifacts() == other.store.artifacts() == []

    def test_gc__keeps_the_newest_of_those_that_are_not_dropped(self, toy, other, collect):
        older, newest = toy.run().artifact, toy.run(scale=2.0).artifact
        collect("--drop", newest.record.fingerprint)
        assert records(other.store.artifacts()) == [older.record]

    def test_gc__keeps_what_was_last_asked_for(self, toy, made, other, collect):
        toy.run(num_parts=1)
        collect()
        assert records(other.store.artifacts()) == records([made[0]])
        collect("--drop", made[0].record.fingerprint)
        assert other.store.artifacts() == []
        assert list((toy.store.root / "toy").glob(".asked-*")) == []

    def test_gc__removes_nothing_beside_a_record_that_it_cannot_read(self, toy, other, collect):
        toy.run()
        toy.run(scale=2.0)
        child = toy.run_child().artifact
        self.overwrite(toy.store, child, "artifact.json", b"{")
        assert child.record.fingerprint in collect()[1]
        assert len(other.store.artifacts()) == 2


def records(artifacts):
    return [artifact.record for artifact in artifacts]


def with_more(params, sources, out, runtime, context):
    (out.path / "more.txt").write_text("more")
    return TOY.run(params, sources, out, runtime, context)
