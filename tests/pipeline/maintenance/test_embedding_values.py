"""verify looks at numbers, which a record's hashes do not judge."""

import numpy as np
import pytest

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import CAPTION_KIND, FEATURE_KIND, IMAGE_KIND, EmbeddingArray, array_name
from pipeline.commands.artifacts import artifact_problems
from pipeline.fingerprint import fingerprint
from pipeline.store.draft import commit, open_draft
from pipeline.store.store import Artifact, Store


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Commit an artifact of 600 rows, some of them as told, with the counts of its stage."""
    monkeypatch.setattr(EmbeddingArray, "_check_finite", lambda *_args, **_options: None)  # as earlier versions wrote
    store = Store(tmp_path / "store")

    def run(rows, counts, *, kind=CAPTION_KIND, dtype="float16"):
        name = fingerprint("stage", 1, {}, {})
        draft = open_draft(store, "stage", name, fresh=True)
        values = np.ones((600, 8), dtype)
        for row, value in rows.items():
            values[row] = value
        embeddings = EmbeddingArray.create(draft.path, rows=600, dim=8, dtype=dtype, shard_rows=256, kind=kind)
        for shard in embeddings.shards():
            embeddings.write(shard, values[shard.start : shard.stop])
        record = ArtifactRecord("stage", 1, name, "", {}, {}, (), counts, {}, (), "", {})
        made = Artifact(store.folder("stage", name), commit(store, draft, record))
        monkeypatch.undo()
        return made

    return run


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify__finds_what_is_no_number(make, dtype, value):
    problems = artifact_problems(make({300: value, 310: value}, {"zero_captions": 0}, dtype=dtype))
    assert problems == {"embeddings.zarr/c/1/0": "has NaN or infinity in 2 rows, first row 300"}


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ({"zero_captions": 1}, CAPTION_KIND),
        ({"distinct_images": 599}, IMAGE_KIND),
        ({"distinct_images": 599}, FEATURE_KIND),
    ],
)
def test_verify__finds_rows_of_zeros_that_are_not_counted(make, counts, kind):
    problems = artifact_problems(make({3: 0.0, 599: 0.0}, counts, kind=kind))
    why = "has 1 rows of zeros, of 2 in all, and the record counts 1"
    name = array_name(kind)
    assert problems == {f"{name}/c/0/0": why, f"{name}/c/2/0": why}


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ({"zero_captions": 2}, CAPTION_KIND),
        ({"distinct_images": 598}, IMAGE_KIND),
        ({"distinct_images": 598}, FEATURE_KIND),
        ({}, CAPTION_KIND),
    ],
)
def test_verify__takes_rows_of_zeros_that_are_counted(make, counts, kind):
    """Records of before they were counted say nothing of them."""
    assert artifact_problems(make({3: 0.0, 599: 0.0}, counts, kind=kind)) == {}
