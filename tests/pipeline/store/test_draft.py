import dataclasses
import json

import pytest

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.files import FileEntry, write_atomic
from pipeline.fingerprint import digest_of_files
from pipeline.store.draft import JOURNAL_NAME, commit, open_draft
from pipeline.store.locks import digests_in_use, holder, is_held, locked
from pipeline.store.store import HOLDER_PREFIX, Store

FINGERPRINT = "f" * 32
RECORD = ArtifactRecord(
    stage="toy",
    version=1,
    fingerprint=FINGERPRINT,
    digest="",
    params={},
    inputs={},
    files=(),
    counts={},
    metrics={},
    uses=(),
    created="2026-01-01T00:00:00.000000+00:00",
    environment={},
)


@pytest.fixture
def work(tmp_path):
    return Store(tmp_path)


def draft_of(work, **options):
    return open_draft(work, "toy", FINGERPRINT, **options)


def fill(draft, *, adopt=("a",), log="12:00", **files):
    for name, text in (files or {"a": "one", "b": "two"}).items():
        write_atomic(draft.path / name, text.encode())
    for name in adopt:
        draft.adopt(name)
    write_atomic(draft.logs / "times", log.encode())
    write_atomic(draft.state / "resume", b"state")
    return draft


def test_draft__knows_what_was_adopted_and_still_stands(work):
    draft = fill(draft_of(work))
    assert not draft.resumed
    for seen in (draft, draft_of(work)):
        assert seen.is_whole("a")
        assert not seen.is_whole("b")
        assert not seen.is_whole("absent")
    (draft.path / "a").write_bytes(b"eno")
    assert draft_of(work).resumed
    assert not draft_of(work).is_whole("a")
    (draft.path / "a").unlink()
    assert not draft.is_whole("a")


def test_draft__takes_the_last_word_of_its_journal(work):
    draft = fill(draft_of(work))
    write_atomic(draft.path / "a", b"longer")
    draft.adopt("a")
    assert draft_of(work).is_whole("a")


@pytest.mark.parametrize("torn", [b'{"path": "b", "si', b"[1]\n", b'{"path": "b"}\n', b"\xff\xfe\n", b"null\n"])
def test_draft__passes_over_torn_lines_of_its_journal(work, torn):
    draft = fill(draft_of(work))
    with (draft.path / JOURNAL_NAME).open("ab") as journal:
        journal.write(torn)
    again = draft_of(work)
    assert again.is_whole("a")
    assert not again.is_whole("b")
    again.adopt("b")
    assert draft_of(work).is_whole("b")


def test_draft__forgets_all_when_cleared(work):
    draft = fill(draft_of(work))
    draft.clear()
    assert list(draft.path.iterdir()) == []
    assert not draft.is_whole("a")
    assert not draft_of(work).resumed


def test_open_draft__removes_what_killed_writes_left(work):
    draft = fill(draft_of(work))
    (draft.path / ".a.0123.partial").write_bytes(b"half")
    assert not list(draft_of(work).path.rglob("*.partial"))


def test_open_draft__starts_from_nothing_when_fresh(work):
    fill(draft_of(work))
    draft = draft_of(work, fresh=True)
    assert not draft.resumed
    assert list(draft.path.iterdir()) == []


def test_seal__lists_every_file_but_state_and_record(work):
    draft = fill(draft_of(work))
    sealed = draft.seal(RECORD)
    assert [file.path for file in sealed.files] == ["a", "b", JOURNAL_NAME, "logs/times"]
    assert sealed.problems(draft.path, read=True) == {}
    assert ArtifactRecord.read(draft.path) == sealed


def test_seal__leaves_logs_and_journal_out_of_the_digest(work):
    draft = fill(draft_of(work))
    first = draft.seal(RECORD)
    write_atomic(draft.logs / "times", b"13:00")
    draft.adopt("a")
    second = draft.seal(RECORD)
    assert first.files != second.files
    assert first.digest == second.digest == digest_of_files(FileEntry.of(draft.path, name) for name in ("a", "b"))


def test_seal__hears_a_changed_output(work):
    draft = fill(draft_of(work))
    first = draft.seal(RECORD)
    write_atomic(draft.path / "b", b"owt")
    assert draft.seal(RECORD).digest != first.digest


def test_seal__reads_again_what_an_earlier_run_adopted_and_this_one_wrote(work):
    fill(draft_of(work))
    draft = draft_of(work)
    write_atomic(draft.path / "a", b"eno")
    assert draft.seal(RECORD).problems(draft.path, read=True) == {}


def test_commit__puts_the_draft_in_its_place_without_its_state(work):
    sealed = commit(work, fill(draft_of(work)), RECORD)
    artifact = work.find("toy", FINGERPRINT)
    assert artifact.record == sealed
    assert not (artifact.path / "state").exists()
    assert list(work.leftovers()) == []


def test_commit__replaces_an_artifact_that_stands_there(work):
    commit(work, fill(draft_of(work)), RECORD)
    draft = draft_of(work, fresh=True)
    assert work.find("toy", FINGERPRINT) is not None
    fill(draft, a="new", adopt=())
    sealed = commit(work, draft, RECORD)
    assert [file.path for file in sealed.files] == ["a", "logs/times"]
    assert list(work.leftovers()) == []


@pytest.mark.parametrize("adopted", [("a",), ()])
@pytest.mark.parametrize("record", ["readable", "damaged"])
def test_open_draft__takes_over_the_whole_files_of_a_damaged_artifact(work, adopted, record):
    commit(work, fill(draft_of(work), adopt=adopted), RECORD)
    final = work.folder("toy", FINGERPRINT)
    (final / "b").write_bytes(b"")
    if record == "damaged":
        (final / "artifact.json").write_text("{")
    draft = draft_of(work)
    assert not final.exists()
    assert draft.resumed
    assert draft.is_whole("a") == (record == "readable" or "a" in adopted)
    assert not draft.is_whole("b")
    fill(draft, adopt=(), log="14:00")
    sealed = commit(work, draft, RECORD)
    assert sealed.problems(final, read=True) == {}


def test_locked__is_held_only_while_it_lasts(work):
    assert not is_held(work, "toy", FINGERPRINT)
    with locked(work, "toy", FINGERPRINT, uses=["d1", "d2"]):
        assert is_held(work, "toy", FINGERPRINT)
        assert not is_held(work, "toy", "0" * 32)
        assert holder(work, "toy", FINGERPRINT).startswith("process ")
        assert digests_in_use(work) == {"d1", "d2"}
    assert not is_held(work, "toy", FINGERPRINT)
    assert digests_in_use(work) == set()
    assert holder(work, "toy", FINGERPRINT) == "another process"


def test_digests_in_use__do_not_count_what_a_killed_process_held(work):
    with locked(work, "toy", FINGERPRINT):
        pass
    (work.root / "toy" / f"{HOLDER_PREFIX}{FINGERPRINT}").write_text(json.dumps({"uses": ["d1"]}))
    assert digests_in_use(work) == set()


def test_seal__keeps_what_the_record_says_of_the_run(work):
    record = dataclasses.replace(RECORD, counts={"rows": 3}, metrics={"score": 1.5}, uses=("d1",))
    sealed = fill(draft_of(work)).seal(record)
    assert (sealed.counts, sealed.metrics, sealed.uses) == ({"rows": 3}, {"score": 1.5}, ("d1",))
