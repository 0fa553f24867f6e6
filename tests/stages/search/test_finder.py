"""Both finders against a whole sort, and the rows that they are given."""

import errno
import os
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from faiss_doubles import DAMAGES, damage_faiss
from searching import Embedded
from workbench import Cli, Pairs

from data_schemas.errors import ProtoRKDError
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages import STAGES
from stages.components.embeddings.searchable import Rows, find_searchable, read_row, read_rows
from stages.search.finder import ExactFinder, FaissFinder, open_finder


def unit(num: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 50, 80])
def test_exact_finder__is_the_head_of_a_whole_sort(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.search.finder._MAX_SCORES", 120)  # several blocks
    values, numbers, queries = unit(50, 8, 0), np.arange(50) * 2, unit(5, 8, 1)
    scores, rows = ExactFinder(Rows(values, numbers)).find(queries, k)
    order = np.argsort(-(queries @ values.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, numbers[order])
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ values.T, order, axis=1), atol=1e-6)


def test_exact_finder__gives_equal_rows_in_their_order() -> None:
    values = np.repeat(unit(1, 4, 0), 6, axis=0)
    _, rows = ExactFinder(Rows(values, np.arange(6))).find(values[:1], 6)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5]]


def context(store: Path) -> Any:
    return context_of(Store(store), stages=STAGES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_open_finder__gives_the_same_with_faiss_and_without(
    damage: str, encoded: Pairs, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = find_searchable(None, store=Store(store))
    queries = unit(6, 16, 3)
    with_faiss = open_finder(artifact, context=context(store))
    damage_faiss(damage, monkeypatch)
    without = open_finder(artifact, context=context(store))
    assert isinstance(with_faiss, FaissFinder)
    assert isinstance(without, ExactFinder)
    for one, other in zip(with_faiss.find(queries, 5), without.find(queries, 5), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("made_before", [False, True])
def test_open_finder__searches_a_store_that_may_only_be_read(
    embedded: Embedded, store: Path, monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    artifact = find_searchable(None, store=Store(store))
    queries = read_rows(artifact).values[:3]
    expected = open_finder(artifact, context=context(store)) if made_before else ExactFinder(read_rows(artifact))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    access = os.access
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    for name in ("mkdir", "replace", "rename", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    found = open_finder(artifact, context=context(store))
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found.find(queries, 5)[1], expected.find(queries, 5)[1])


def test_open_finder__raises_what_a_store_that_may_be_written_does_not_take(
    embedded: Embedded, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(ProtoRKDError, match="No space left"):
        open_finder(find_searchable(None, store=Store(store)), context=context(store))


def test_open_finder__refuses_an_altered_index(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    path = Path(run_cli("index")["path"]) / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ProtoRKDError, match="has other bytes than were written"):
        open_finder(find_searchable(None, store=Store(store)), context=context(store))


def test_read_rows__leaves_out_zero_vectors(store: Path, run_cli: Cli, write_manifest: Any, word_vectors: Path) -> None:
    run_cli("encode-teacher", "--manifest", write_manifest(["red circle", "xyzzy", "blue"]), "--teacher", word_vectors)
    artifact = find_searchable(None, store=Store(store))
    rows = read_rows(artifact)
    assert rows.numbers.tolist() == [0, 2]
    np.testing.assert_allclose(np.linalg.norm(rows.values, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(read_row(artifact, 2)[0], rows.values[1], atol=1e-6)
    with pytest.raises(ProtoRKDError, match="it is the zero vector"):
        read_row(artifact, 1)


@pytest.mark.parametrize("reference", ["ffff", ""])
def test_find_searchable__refuses_what_fits_nothing(encoded: Pairs, store: Path, reference: str) -> None:
    with pytest.raises(ProtoRKDError, match="--in must name exactly one artifact"):
        find_searchable(reference, store=Store(store))


def test_find_searchable__does_not_pass_over_a_damaged_record(embedded: Embedded, store: Path) -> None:
    fingerprint = embedded.outcome["fingerprint"]
    (store / "embed" / fingerprint / "artifact.json").write_text("{")
    for reference in (None, fingerprint[:8]):
        with pytest.raises(ProtoRKDError, match=r"artifact\.json"):
            find_searchable(reference, store=Store(store))


def test_find_searchable__refuses_an_artifact_of_another_stage(trained: dict[str, Any], store: Path) -> None:
    with pytest.raises(ProtoRKDError, match="got one of distill"):
        find_searchable(trained["path"], store=Store(store))


def test_find_searchable__says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="Run embed or encode-teacher first"):
        find_searchable(None, store=Store(tmp_path))
