"""Rows of earlier artifacts: declared before they are read, compared with their record, and never made of nothing."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import stages.components.embeddings.reused_rows as reused_rows
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import CAPTION_KIND, EmbeddingArray
from data_schemas.pair_index import CAPTIONS_NAME, write_captions
from pipeline.runner import context_of
from pipeline.store.draft import commit, open_draft
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.reused_captions import _read_captions

pytestmark = pytest.mark.usefixtures("quiet_log")

WORDS = [f"caption {number}" for number in range(600)]
VALUES = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float16)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, fingerprint, rows):
    """Commit an artifact with some captions and their embeddings."""
    draft = open_draft(store, "encode-teacher", fingerprint)
    write_captions(draft.path, pa.array([WORDS[row] for row in rows], pa.large_string()))
    embeddings = EmbeddingArray.create(draft.path, rows=len(rows), dim=8, dtype="float16", shard_rows=256)
    for shard in embeddings.shards():
        embeddings.write(shard, VALUES[rows[shard.start : shard.stop]])
    record = ArtifactRecord("encode-teacher", 1, fingerprint, "", {}, {}, (), {}, {}, (), "", {})
    return Artifact(store.folder("encode-teacher", fingerprint), commit(store, draft, record))


def find(store, sources, *, use=lambda _digest: None):
    draft = open_draft(store, "encode-teacher", "f" * 32)
    context = replace(context_of(store), use=use)
    keys = pa.array(WORDS, pa.large_string())
    return reused_rows.find_known_rows(
        keys, draft, sources=sources, context=context, read_keys=_read_captions, kind=CAPTION_KIND
    )


def test_known_rows__are_those_of_every_source(store):
    known = find(store, [make(store, "a" * 32, range(300)), make(store, "b" * 32, range(200, 500))])
    assert known.is_known.tolist() == [True] * 500 + [False] * 100
    np.testing.assert_array_equal(known.values[:500], VALUES[:500])


def test_known_rows__declare_a_source_before_they_read_it(store, monkeypatch):
    source = make(store, "a" * 32, range(300))
    events = []
    for name in ("fetch",):
        monkeypatch.setattr(store, name, lambda artifact: events.append("read") or artifact)
    find(store, [source], use=events.append)
    assert events == [source.record.digest, "read"]


@pytest.mark.parametrize("lost", ["embeddings.zarr/c/1/0", "."])
def test_known_rows__come_from_elsewhere_where_a_source_is_removed_meanwhile(store, monkeypatch, lost):
    """The moment after the last look at sizes: zarr itself would read NaN there."""
    removed, other = make(store, "a" * 32, range(600)), make(store, "b" * 32, range(100))
    opened = EmbeddingArray.open

    def then_remove(root, **kind):
        embeddings = opened(root, **kind)
        if root == removed.path:
            shutil.rmtree(root) if lost == "." else (root / lost).unlink()
        return embeddings

    monkeypatch.setattr(EmbeddingArray, "open", then_remove)
    known = find(store, [removed, other])
    assert np.flatnonzero(known.is_known).tolist() == list(range(100))
    np.testing.assert_array_equal(known.values[:100], VALUES[:100])


@pytest.mark.parametrize("path", [CAPTIONS_NAME, "embeddings.zarr/c/0/0", "embeddings.zarr/zarr.json"])
def test_known_rows__are_not_taken_from_other_bytes_than_were_written(store, path):
    source = make(store, "a" * 32, range(300))
    data = bytearray((source.path / path).read_bytes())
    data[len(data) // 2] ^= 1
    (source.path / path).write_bytes(data)
    assert find(store, [source]) is None


def test_known_rows__are_not_taken_from_an_artifact_with_nan(store, monkeypatch):
    """As earlier versions may have committed it, whole by its hashes."""
    monkeypatch.setattr(EmbeddingArray, "_check_finite", lambda *_args, **_options: None)
    monkeypatch.setitem(globals(), "VALUES", np.where(np.arange(600)[:, None] == 7, np.float16(np.nan), VALUES))
    source = make(store, "a" * 32, range(300))
    monkeypatch.undo()
    source.require_whole(read=True)
    assert find(store, [source]) is None
