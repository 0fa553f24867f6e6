"""Vectors that another tool computed become the embeddings of captions; what they are a teacher of says so."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workbench import DISTILL, Cli, Pairs, make_manifest

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.pair_index import read_captions, read_pairs, read_rejected

DIM = 6
CAPTIONS = ("red circle", "blue square", "red circle", "green stripe")
DISTINCT = ("red circle", "blue square", "green stripe")


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)


def write(path: Path, keys: Sequence[Any], vectors: np.ndarray, *, key: str = "caption") -> Path:
    rows = pa.array(list(map(list, vectors)), pa.list_(pa.float32()))
    pq.write_table(pa.table({key: keys, "embedding": rows}), path)
    return path


def read(outcome: dict[str, Any]) -> np.ndarray:
    embeddings = EmbeddingArray.open(Path(outcome["path"]))
    return embeddings.read(0, embeddings.rows)


def encode(manifest: Path, vectors: Path, *more: object) -> tuple[object, ...]:
    return ("encode-teacher", "--manifest", manifest, "--vectors", vectors, "--embedding-dtype", "float32", *more)


def test_vectors__are_found_by_caption(write_manifest: Any, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", DISTINCT[::-1], vectors[::-1])
    outcome = run_cli(*encode(write_manifest(CAPTIONS), path, "--teacher-name", "somebody/model"))
    folder = Path(outcome["path"])
    np.testing.assert_array_equal(read(outcome), vectors)
    assert tuple(read_captions(folder).to_pylist()) == DISTINCT
    assert read_pairs(folder)["caption_row"].to_pylist() == [0, 1, 0, 2]
    record = json.loads((folder / "artifact.json").read_text())
    assert record["inputs"]["teacher"]["location"] == "somebody/model"
    assert record["params"]["teacher_precision"] == "fp32"
    assert run_cli(*encode(tmp_path / "pairs.tsv", path.rename(tmp_path / "w.parquet")))["status"] == "unchanged"
    assert run_cli.run("verify").exit_code == 0


def test_vectors__are_found_by_row(write_manifest: Any, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    manifest = write_manifest(CAPTIONS)
    by_caption = run_cli(*encode(manifest, write(tmp_path / "c.parquet", DISTINCT, vectors)))
    rows = read_pairs(Path(by_caption["path"]))["manifest_row"].to_pylist()
    four = vectors[[0, 1, 0, 2]]
    by_row = run_cli(*encode(manifest, write(tmp_path / "r.parquet", rows[::-1], four[::-1], key="manifest_row")))
    assert by_row["counts"]["repeated_vectors"] == 1
    np.testing.assert_array_equal(read(by_row), vectors)
    np.save(tmp_path / "plain.npy", four)
    np.testing.assert_array_equal(read(run_cli(*encode(manifest, tmp_path / "plain.npy"))), vectors)
    four[2] = vectors[1]
    np.save(tmp_path / "other.npy", four)
    assert "two that differ for 0" in run_cli.fails(*encode(manifest, tmp_path / "other.npy"))
    text = manifest.read_text() + "no caption\n"
    (tmp_path / "broken.tsv").write_text(text)
    words = encode(tmp_path / "broken.tsv", tmp_path / "plain.npy", "--max-bad-fraction", 0.5)
    assert "must have a table of keys beside it, for 1 rows" in run_cli.fails(*words)


def test_vectors__that_are_missing_are_listed_by_row(
    write_manifest: Any, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    manifest = write_manifest(CAPTIONS)
    path = write(tmp_path / "v.parquet", ["blue square", "green stripe", "grey"], vectors)
    assert "got 2 of 4 without one" in run_cli.fails(*encode(manifest, path))
    outcome = run_cli(*encode(manifest, path, "--max-bad-fraction", 0.5))
    assert [(entry.reason, entry.value) for entry in read_rejected(Path(outcome["path"]))] == [
        ("no vector has its key", "red circle")
    ] * 2
    counts = outcome["counts"]
    assert (counts["pairs"], counts["captions"], counts["zero_captions"]) == (4, 3, 1)
    assert (counts["rejected_rows"], counts["unused_vectors"]) == (2, 1)
    assert run_cli.run("verify").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--teacher", "some"), "One of --teacher and --vectors must be given; got both"),
        (("--prompt", "query: "), "--vectors must go without --prompt"),
        (("--truncate-dim", 3), "--vectors must go without --truncate-dim"),
        (("--teacher-precision", "bf16"), "--vectors must go without --teacher-precision"),
    ],
)
def test_vectors__go_without_a_teachers_options(
    write_manifest: Any, vectors: np.ndarray, run_cli: Cli, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    path = write(tmp_path / "v.parquet", DISTINCT, vectors)
    assert message in run_cli.fails(*encode(write_manifest(CAPTIONS), path, *words))
    assert "got neither" in run_cli.fails("encode-teacher", "--manifest", write_manifest(CAPTIONS))


def test_vectors__teach_a_student_that_embeds_no_text(run_cli: Cli, pairs_folder: Any, tmp_path: Path) -> None:
    pairs: Pairs = pairs_folder(24, 40)
    captions = list(dict.fromkeys(pairs.captions))
    numbers = np.random.default_rng(0).normal(size=(len(captions), DIM)).astype(np.float32)
    run_cli(*encode(pairs.manifest, write(tmp_path / "v.parquet", captions, numbers), "--teacher-name", "an API"))
    assert run_cli(*DISTILL, "--epochs", 1)["status"] == "created"
    for words in (
        ("evaluate", "--retrieval", make_manifest(tmp_path / "held.tsv", pairs.images[:4], pairs.captions[:4])),
        ("export",),
    ):
        message = run_cli.fails(*words)
        assert "there are only vectors that another tool computed (an API)" in message
        assert "--format onnx of export" in message
