import dataclasses
import hashlib
import json

import pytest

from data_schemas.artifact_record import ArtifactRecord, InputRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from data_schemas.files import FileEntry, read_json, write_json


@pytest.fixture
def record():
    return ArtifactRecord(
        stage="toy",
        version=3,
        fingerprint="f" * 32,
        digest="d" * 64,
        params={"lr": 5e-4, "loss": ["simreg=1"], "prompt": None, "title": "Zürich"},
        inputs={"manifest": InputRecord(digest="0" * 64, location="/a.tsv", parts={"x": "1"})},
        files=(FileEntry("a", 1, "1" * 64), FileEntry("logs/a", 2, "2" * 64), FileEntry("journal.jsonl", 3, "3" * 64)),
        counts={"rows": 3, "dropped": {2: 1, 10: 2}},
        metrics={"recall": 0.1},
        uses=("e" * 64,),
        created="2026-01-01T00:00:00.000000+00:00",
        environment={"torch": "2"},
    )


def test_artifact_record__comes_back_as_written(record, tmp_path):
    record.write(tmp_path)
    counts = {"rows": 3, "dropped": {"2": 1, "10": 2}}  # keys are text in JSON
    assert ArtifactRecord.read(tmp_path) == dataclasses.replace(record, counts=counts)
    assert record.size == 6


def test_artifact_record__leaves_logs_and_journal_out_of_what_is_digested(record):
    assert [file.path for file in record.digested_files] == ["a"]


def test_artifact_record__refuses_every_altered_byte(record, tmp_path):
    record.write(tmp_path)
    path = tmp_path / "artifact.json"
    good = path.read_bytes()
    for position in range(0, len(good) - 1, 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(ProtoRKDError, match=r"artifact\.json must"):
            ArtifactRecord.read(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"schema_version": 1}'])
def test_artifact_record__refuses_other_json(tmp_path, text):
    (tmp_path / "artifact.json").write_text(text)
    with pytest.raises(ProtoRKDError, match=r"artifact\.json must be"):
        ArtifactRecord.read(tmp_path)


def test_artifact_record__refuses_a_newer_schema(record, tmp_path):
    newer = dataclasses.replace(record, schema_version=2, environment={"protorkd": "9.1"})
    newer.write(tmp_path)
    with pytest.raises(NewerRecordError, match=r"schema version 1 or older; got 2, written by protorkd 9\.1\. Update"):
        ArtifactRecord.read(tmp_path)


@pytest.mark.parametrize("change", [{"checksum": None}, {"checksum": "other"}, {"files": "elsewhere"}])
def test_artifact_record__knows_a_newer_schema_in_any_other_form(record, tmp_path, change):
    dataclasses.replace(record, schema_version=2).write(tmp_path)
    values = {**read_json(tmp_path / "artifact.json"), **change}
    write_json(tmp_path / "artifact.json", {key: value for key, value in values.items() if value is not None})
    with pytest.raises(NewerRecordError, match="written by a newer protorkd"):
        ArtifactRecord.read(tmp_path)


def test_artifact_record__takes_a_whole_one_with_unknown_fields_for_a_newer_one(record, tmp_path):
    record.write(tmp_path)
    values = read_json(tmp_path / "artifact.json")
    del values["checksum"]
    values["colour"] = "red"
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    write_json(tmp_path / "artifact.json", {**values, "checksum": checksum})
    with pytest.raises(NewerRecordError, match="colour"):
        ArtifactRecord.read(tmp_path)


def test_artifact_record__refuses_an_edited_value(record, tmp_path):
    record.write(tmp_path)
    write_json(tmp_path / "artifact.json", {**read_json(tmp_path / "artifact.json"), "metrics": {"recall": 99.0}})
    with pytest.raises(ProtoRKDError, match="checksum"):
        ArtifactRecord.read(tmp_path)


def test_artifact_record__is_absent_without_its_file(tmp_path):
    with pytest.raises(ProtoRKDError, match="must exist"):
        ArtifactRecord.read(tmp_path)


def test_problems__names_each_damaged_file(record, tmp_path):
    assert record.problems(tmp_path, read=False) == dict.fromkeys(("a", "logs/a", "journal.jsonl"), "missing")
