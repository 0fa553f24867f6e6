"""index: exact where it says so, by lists with the recall that it says, and the same each time."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from faiss_doubles import DAMAGES, damage_faiss
from workbench import Cli, Pairs

from data_schemas.search_index import INDEX_NAME, IndexConfig
from pipeline.store.store import Store
from stages.components.embeddings.searchable import Rows, find_searchable, read_rows
from stages.index.run import _lists


def clustered(num: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dim))
    rows = centres[generator.integers(0, 40, num)] + 0.6 * generator.normal(size=(num, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_index__finds_what_comparing_with_every_row_finds(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    outcome = run_cli("index")
    searchable = read_rows(find_searchable(None, store=Store(store)))
    index = faiss.read_index(str(Path(outcome["path"]) / INDEX_NAME))
    scores, rows = index.search(searchable.values, 5)
    expected = -np.sort(-(searchable.values @ searchable.values.T), axis=1)[:, :5]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert (rows[:, 0] == searchable.numbers).all()
    assert outcome["metrics"]["recall@10"] == 100


@pytest.mark.parametrize("damage", DAMAGES)
def test_index__says_why_faiss_cannot_be_imported(
    damage: str, encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = damage_faiss(damage, monkeypatch)
    assert f"index must have faiss; {reason}" in run_cli.fails("index")


def test_index__runs_once(encoded: Pairs, run_cli: Cli) -> None:
    first = run_cli("index")
    again = run_cli("index")
    assert (again["status"], again["digest"]) == ("unchanged", first["digest"])


def test_index__divides_many_rows_into_lists(encoded: Pairs, run_cli: Cli) -> None:
    outcome = run_cli("index", "--max-exact-rows", 10)
    config = IndexConfig.read(Path(outcome["path"]))
    assert (config.kind, config.rows) == ("lists", 24)
    assert faiss.read_index(str(Path(outcome["path"]) / INDEX_NAME)).ntotal == 24


def test_lists__have_the_recall_that_they_say_and_look_into_few() -> None:
    values, numbers = clustered(6000), np.arange(6000) * 3
    index, config = _lists(Rows(values, numbers), recall=0.9, seed=0)
    queries = values[::7]
    truth = numbers[np.argsort(-(queries @ values.T), axis=1)[:, :10]]
    found = index.search(queries, 10)[1]
    recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, truth, strict=True)])
    assert config.recall >= 0.9
    assert recall == pytest.approx(config.recall, abs=0.02)
    assert config.probes < config.lists / 4


def test_lists__of_calibrated_rows_have_the_recall_of_queries_by_words() -> None:
    values, numbers = clustered(3000), np.arange(3000)
    rows = np.column_stack([values, -np.abs(values[:, 0])]).astype(np.float32)
    index, config = _lists(Rows(rows, numbers, "query-bank"), recall=0.9, seed=0)
    queries = np.column_stack([values[::7], np.ones(len(values[::7]))]).astype(np.float32)
    truth = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    found = index.search(queries, 10)[1]
    recall = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, truth, strict=True)])
    assert config.recall >= 0.9
    assert recall == pytest.approx(config.recall, abs=0.03)


def test_lists__are_the_same_each_time() -> None:
    def made(seed: int) -> Any:
        index, _ = _lists(Rows(clustered(3000), np.arange(3000)), recall=0.9, seed=seed)
        return faiss.serialize_index(index)

    np.testing.assert_array_equal(made(0), made(0))
    assert not np.array_equal(made(0), made(1))
