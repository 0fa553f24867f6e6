"""The artifact of neighbours: which captions have some, made once, gone on with after a kill."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from workbench import COLOURS, SHAPES, Cli, make_manifest

from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.neighbours import Neighbours
from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.neighbours import search, stage
from stages.components.embeddings.neighbours.stage import make_neighbours

COLOUR_SETS = [" ".join(chosen) for num in (1, 2, 3) for chosen in combinations(COLOURS, num)]
CAPTIONS = ["unheard", *(f"{colours} {shape}" for shape in SHAPES for colours in COLOUR_SETS), "of"]
NUM = len(CAPTIONS)


@pytest.fixture
def embeddings(tmp_path: Path, word_vectors: Path, run_cli: Cli) -> Artifact:
    """Captions, of two of which the teacher knows no word."""
    manifest = make_manifest(tmp_path / "pairs.tsv", [f"{number}.jpg" for number in range(NUM)], CAPTIONS)
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    [made] = Store(run_cli.store).artifacts("encode-teacher")
    return made


def make(embeddings: Artifact, num_neighbours: int = 6, *, force: bool = False) -> Artifact:
    context = context_of(Store(embeddings.path.parents[1]), force=force)
    return make_neighbours(embeddings, num_neighbours=num_neighbours, device="cpu", context=context)


@pytest.mark.parametrize("shard_rows", [1 << 16, 64])
def test_neighbours__are_the_nearest_captions_that_the_teacher_knows(
    embeddings: Artifact, shard_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_SHARD_ROWS", shard_rows)
    artifact = make(embeddings)
    found = Neighbours.read(artifact.path)
    rows = EmbeddingArray.open(embeddings.path).read(0, NUM).astype(np.float64)
    unknown = np.flatnonzero(~rows.any(axis=1))
    assert unknown.tolist() == [0, NUM - 1]
    assert (found.rows[unknown] == -1).all()
    assert not np.isin(found.rows, [0, NUM - 1]).any()
    lengths = np.linalg.norm(rows, axis=1)
    cosines = rows @ rows.T / np.maximum(lengths[:, None] * lengths, 1e-30)
    np.fill_diagonal(cosines, -2)
    cosines[:, unknown] = -2
    known = np.flatnonzero(rows.any(axis=1))
    expected = -np.sort(-cosines, axis=1)[:, :6]
    np.testing.assert_allclose(found.cosines[known], expected[known], atol=2e-6)
    own = np.take_along_axis(cosines, found.rows, axis=1)
    np.testing.assert_allclose(found.cosines[known], own[known], atol=2e-6)
    assert artifact.record.counts == {"captions": NUM, "zero_captions": 2}
    assert artifact.record.stage == "neighbours"


def test_neighbours__are_made_once_and_the_same_every_time(embeddings: Artifact) -> None:
    first, again = make(embeddings), make(embeddings)
    assert first.record.created == again.record.created
    assert make(embeddings, force=True).record.digest == first.record.digest
    assert make(embeddings, 7).record.fingerprint != first.record.fingerprint


def test_neighbours__of_a_killed_run_are_kept_by_shard(embeddings: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_SHARD_ROWS", 100)
    expected = make(embeddings, 5).record.digest
    searched: list[int] = []
    of = search.NearestRows.of

    def fail_at_the_third(nearest: search.NearestRows, start: int, stop: int, **options: int) -> Neighbours:
        searched.append(start)
        if len(searched) == 3:
            raise ProtoRKDError("power cut")
        return of(nearest, start, stop, **options)

    monkeypatch.setattr(search.NearestRows, "of", fail_at_the_third)
    store = Store(embeddings.path.parents[1])
    store.remove(store.artifacts("neighbours")[0].path)
    with pytest.raises(ProtoRKDError, match="power cut"):
        make(embeddings, 5)
    assert make(embeddings, 5).record.digest == expected
    assert searched == [0, 99, 199, 199]  # the first caption is known to no teacher


def test_neighbours__refuse_damaged_embeddings(embeddings: Artifact) -> None:
    shard = embeddings.path / ARRAY_NAME / "c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        make(embeddings)


def test_neighbours__must_be_one_or_more(embeddings: Artifact) -> None:
    with pytest.raises(ProtoRKDError, match="--num-neighbours must be above 0; got 0"):
        make(embeddings, 0)
