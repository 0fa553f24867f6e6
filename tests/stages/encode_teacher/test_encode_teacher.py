"""Stage one from the command line: each caption once, in order, taken over where known, resumed where it broke."""

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from workbench import Cli, counted_captions, with_prompts

import stages.components.embeddings.caption_embeddings
import stages.components.inputs.manifest_options
import stages.components.teacher.loading
import stages.components.teacher.teacher
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import EmbeddingArray
from data_schemas.pair_index import read_captions, read_labels, read_pairs, read_rejected
from stages.components.teacher import identity, loading
from stages.components.teacher.batching import Batch

Write = Callable[..., Path]

CAPTIONS = ["red circle", "blue square", "red circle", "green stripe", "blue square", "yellow"]


@pytest.fixture
def encode(run_cli: Cli, word_vectors: Path) -> Callable[..., dict[str, Any]]:
    def run(manifest: Path, *args: object, teacher: Path = word_vectors) -> dict[str, Any]:
        return run_cli("encode-teacher", "--manifest", manifest, "--teacher", teacher, *args)

    return run


@pytest.fixture
def num_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what has gone through the teacher, call by call."""
    sizes: list[int] = []
    real = stages.components.teacher.teacher.Teacher.start

    def start(self: Any, batches: Sequence[Batch], **options: Any) -> Any:
        sizes.append(sum(len(batch.rows) for batch in batches))
        return real(self, batches, **options)

    monkeypatch.setattr(stages.components.teacher.teacher.Teacher, "start", start)
    return sizes


def rows_of(outcome: dict[str, Any]) -> dict[str, np.ndarray]:
    """Embedding by caption."""
    root = Path(outcome["path"])
    embeddings = EmbeddingArray.open(root)
    return dict(zip(read_captions(root).to_pylist(), embeddings.read(0, embeddings.rows), strict=True))


def counts_of(outcome: dict[str, Any]) -> tuple[int, int]:
    return outcome["counts"]["encoded_captions"], outcome["counts"]["reused_captions"]


def test_encode__embeds_distinct_captions_once_in_order_of_appearance(encode: Any, write_manifest: Write) -> None:
    outcome = encode(write_manifest(CAPTIONS))
    root = Path(outcome["path"])
    assert read_captions(root).to_pylist() == ["red circle", "blue square", "green stripe", "yellow"]
    pairs = read_pairs(root)
    assert pairs["caption_row"].to_pylist() == [0, 1, 0, 2, 1, 3]
    assert pairs["image"].to_pylist() == [f"{index}.jpg" for index in range(6)]
    assert pairs["manifest_row"].to_pylist() == [2, 3, 4, 5, 6, 7]  # lines of the file; the header is line 1
    assert outcome["counts"] == {
        "pairs": 6,
        "rejected_rows": 0,
        "captions": 4,
        "encoded_captions": 4,
        "reused_captions": 0,
        "resumed_captions": 0,
        "zero_captions": 0,
        "cut_captions": 0,
    }


def test_encode__counts_captions_that_the_teacher_cuts(
    encode: Any, run_cli: Cli, write_manifest: Write, bert_folder: Path
) -> None:
    whole, over = " ".join(["red"] * 30), " ".join(["red"] * 31)  # with [CLS] and [SEP], 32 and 33 tokens
    manifest = write_manifest(["blue", whole, over, f"{over} blue"])
    said = run_cli.run("encode-teacher", "--manifest", manifest, "--teacher", bert_folder).output
    assert "2 of 4 captions (50.0 %) have more tokens than the 32 that the teacher takes" in said
    outcome = encode(manifest, teacher=bert_folder)
    assert outcome["counts"]["cut_captions"] == 2
    assert outcome["metrics"] == {"cut_caption_share": 0.5}


def test_encode__stores_what_the_model_gives_to_half_precision(
    encode: Any, write_manifest: Write, bert_folder: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    rows = rows_of(encode(write_manifest(CAPTIONS), teacher=bert_folder))
    expected = SentenceTransformer(str(bert_folder), device="cpu").encode(list(rows), show_progress_bar=False)
    stored = np.stack(list(rows.values()))
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, expected, atol=1e-3)


def test_encode__stores_float32_when_told_to(encode: Any, write_manifest: Write) -> None:
    manifest = write_manifest(CAPTIONS)
    wide = rows_of(encode(manifest, "--embedding-dtype", "float32"))
    half = rows_of(encode(manifest))
    assert all(row.dtype == np.float32 for row in wide.values())
    for caption, row in wide.items():
        np.testing.assert_array_equal(row.astype(np.float16), half[caption])


def test_encode__is_readable_with_zarr_alone(encode: Any, write_manifest: Write) -> None:
    import zarr

    outcome = encode(write_manifest(CAPTIONS))
    array = zarr.open_array(Path(outcome["path"]) / "embeddings.zarr", mode="r")
    np.testing.assert_array_equal(array[:], np.stack(list(rows_of(outcome).values())))


def test_encode__counts_captions_of_which_the_teacher_knows_no_word(encode: Any, write_manifest: Write) -> None:
    outcome = encode(write_manifest(["red", "unheard", "of", "blue of"]))
    assert outcome["counts"]["zero_captions"] == 2
    assert not rows_of(outcome)["unheard"].any()


def test_encode__writes_down_rejected_rows(encode: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "pairs.tsv"
    manifest.write_text("filepath\ttitle\na.jpg\tred\nb.jpg\t\nc.jpg\tblue\n")
    outcome = encode(manifest, "--max-bad-fraction", 0.5)
    assert outcome["counts"]["rejected_rows"] == 1
    [rejection] = read_rejected(Path(outcome["path"]))
    assert (rejection.row, rejection.reason) == (3, "empty caption")


def test_encode__keeps_labels_where_asked_for(encode: Any, run_cli: Cli, word_vectors: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "pairs.tsv"
    manifest.write_text("filepath\ttitle\tkind\na.jpg\tred\tshirt\nb.jpg\tblue\t\nc.jpg\tred\that\n")
    outcome = encode(manifest, "--label-column", "kind")
    assert read_pairs(Path(outcome["path"]))["label"].to_pylist() == ["shirt", None, "hat"]
    names, labels = read_labels(Path(outcome["path"]))
    assert (names, labels.tolist()) == (["hat", "shirt"], [1, -1, 0])
    assert (outcome["counts"]["labels"], outcome["counts"]["unlabelled_pairs"]) == (2, 1)
    plain = encode(manifest)
    assert "label" not in read_pairs(Path(plain["path"])).column_names
    assert counts_of(plain) == (0, 2)
    words = ("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    message = run_cli.fails(*words, "--label-column", "sort")
    assert "must have a column 'sort' (--label-column); got columns 'filepath', 'title', 'kind'" in message


def test_encode__takes_the_first_pairs_under_a_limit(encode: Any, write_manifest: Write) -> None:
    outcome = encode(write_manifest(CAPTIONS), "--limit", 2)
    assert list(rows_of(outcome)) == CAPTIONS[:2]
    assert outcome["counts"]["pairs"] == 2


def test_encode__changes_nothing_when_asked_again(
    encode: Any, write_manifest: Write, num_encoded: list[int], tmp_path: Path
) -> None:
    first = encode(write_manifest(CAPTIONS))
    again = encode(write_manifest(CAPTIONS, name="renamed.tsv"), "--batch-tokens", 7)
    assert (first["status"], again["status"]) == ("created", "unchanged")
    assert (again["digest"], again["fingerprint"]) == (first["digest"], first["fingerprint"])
    assert num_encoded == [4]


@pytest.mark.parametrize("kind", ["subset", "shuffle", "renamed images"])
def test_encode__embeds_nothing_when_all_is_known(
    kind: str, encode: Any, write_manifest: Write, num_encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(encode(write_manifest(CAPTIONS)))
    monkeypatch.setattr(stages.components.teacher.loading, "_load", _explode)
    captions = {"subset": CAPTIONS[1:4], "shuffle": CAPTIONS[::-1], "renamed images": CAPTIONS}[kind]
    outcome = encode(write_manifest(captions, images=[f"new/{index}.png" for index in range(len(captions))]))
    assert outcome["status"] == "created"
    assert counts_of(outcome) == (0, len(set(captions)))
    assert num_encoded == [4]
    for caption, row in rows_of(outcome).items():
        np.testing.assert_array_equal(row, before[caption])


def test_encode__embeds_only_the_new_captions_of_a_superset(
    encode: Any, write_manifest: Write, num_encoded: list[int]
) -> None:
    before = rows_of(encode(write_manifest(CAPTIONS)))
    outcome = encode(write_manifest(["purple", *CAPTIONS, "orange stripe", "purple"]))
    assert counts_of(outcome) == (2, 4)
    assert num_encoded == [4, 2]
    rows = rows_of(outcome)
    assert next(iter(rows)) == "purple"
    assert all((rows[caption] == before[caption]).all() for caption in before)
    assert rows["orange stripe"].any()


def test_encode__gathers_known_captions_from_several_artifacts(encode: Any, write_manifest: Write) -> None:
    encode(write_manifest(["red", "blue"], name="a.tsv"))
    encode(write_manifest(["green", "yellow"], name="b.tsv"))
    outcome = encode(write_manifest(["yellow", "red", "orange", "green", "blue"]))
    assert counts_of(outcome) == (1, 4)
    fresh = encode(write_manifest(["yellow", "red", "orange", "green", "blue"]), "--force")
    assert counts_of(fresh) == (5, 0)
    assert fresh["digest"] == outcome["digest"]


@pytest.mark.parametrize(
    "recipe",
    [
        ("--prompt", "blue "),
        ("--truncate-dim", 4),
        ("--max-tokens", 3),
        ("--embedding-dtype", "float32"),
        ("--teacher-precision", "bf16"),
    ],
    ids=lambda recipe: recipe[0],
)
def test_encode__takes_nothing_over_from_another_recipe(
    recipe: tuple[object, ...], encode: Any, write_manifest: Write
) -> None:
    manifest = write_manifest(CAPTIONS)
    first, other = encode(manifest), encode(manifest, *recipe)
    assert first["fingerprint"] != other["fingerprint"]
    assert counts_of(other) == (4, 0)


def test_encode__takes_nothing_over_from_another_teacher_of_the_same_name(
    encode: Any, write_manifest: Write, word_vectors: Path, tmp_path: Path
) -> None:
    manifest, teacher = write_manifest(CAPTIONS), tmp_path / "words.txt"
    shutil.copy(word_vectors, teacher)
    first = encode(manifest, teacher=teacher)
    teacher.write_text(teacher.read_text().replace("red ", "red 1", 1))
    other = encode(manifest, teacher=teacher)
    assert counts_of(other) == (4, 0)
    assert not (rows_of(first)["red circle"] == rows_of(other)["red circle"]).all()


def test_encode__passes_over_an_artifact_that_is_damaged(encode: Any, write_manifest: Write) -> None:
    first = encode(write_manifest(CAPTIONS))
    before = rows_of(first)
    [shard] = Path(first["path"]).glob("embeddings.zarr/c/*/0")
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 0xFF  # the size stays: only the checksum tells
    shard.write_bytes(damaged)
    outcome = encode(write_manifest([*CAPTIONS, "purple"]))
    assert counts_of(outcome) == (5, 0)
    for caption, row in before.items():
        np.testing.assert_array_equal(rows_of(outcome)[caption], row)


@pytest.mark.parametrize("name", ["captions.parquet", "embeddings.zarr/zarr.json"])
def test_encode__passes_over_an_artifact_with_a_file_missing(name: str, encode: Any, write_manifest: Write) -> None:
    (Path(encode(write_manifest(CAPTIONS))["path"]) / name).unlink()
    assert counts_of(encode(write_manifest([*CAPTIONS, "purple"]))) == (5, 0)


def test_encode__mends_an_artifact_that_has_lost_a_file(encode: Any, write_manifest: Write) -> None:
    manifest = write_manifest(CAPTIONS)
    first = encode(manifest)
    next(Path(first["path"]).glob("embeddings.zarr/c/*/0")).unlink()
    again = encode(manifest)
    assert (again["status"], again["digest"]) == ("created", first["digest"])


def test_encode__redoes_only_missing_shards_after_an_interruption(
    encode: Any, write_manifest: Write, monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    manifest, words = write_manifest(counted_captions(900)), ("--shard-rows", 256)
    undisturbed = encode(manifest, *words, "--store", tmp_path / "undisturbed")
    real, sizes = stages.components.teacher.teacher.Teacher.start, []

    def breaks_on_third(self: Any, batches: Sequence[Batch], **options: Any) -> Any:
        sizes.append(sum(len(batch.rows) for batch in batches))
        if len(sizes) == 3:
            raise RuntimeError("power cut")
        return real(self, batches, **options)

    monkeypatch.setattr(stages.components.teacher.teacher.Teacher, "start", breaks_on_third)
    with pytest.raises(RuntimeError, match="power cut"):
        encode(manifest, *words)
    assert not [path for path in (store / "encode-teacher").iterdir() if not path.name.startswith(".")]
    resumed = encode(manifest, *words)
    assert sizes == [256, 256, 256, 256, 132]
    assert resumed["digest"] == undisturbed["digest"]
    assert resumed["counts"]["resumed_captions"] == 512
    assert resumed["counts"]["encoded_captions"] == 388


def test_encode__redoes_a_shard_that_was_altered_after_an_interruption(
    encode: Any, write_manifest: Write, monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    manifest, words = write_manifest(counted_captions(600)), ("--shard-rows", 256)
    undisturbed = encode(manifest, *words, "--store", tmp_path / "undisturbed")
    with monkeypatch.context() as broken:
        broken.setattr(
            stages.components.teacher.teacher.Teacher,
            "start",
            _third_call_raises(stages.components.teacher.teacher.Teacher.start),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            encode(manifest, *words)
    [first, _] = sorted(store.glob("encode-teacher/.draft-*/embeddings.zarr/c/*/0"))
    first.write_bytes(b"\0" * first.stat().st_size)
    resumed = encode(manifest, *words)
    assert resumed["counts"]["resumed_captions"] == 256
    assert resumed["digest"] == undisturbed["digest"]


def test_encode__says_which_dtype_holds_numbers_that_float16_does_not(
    run_cli: Cli, write_manifest: Write, tmp_path: Path
) -> None:
    teacher = tmp_path / "large.txt"
    teacher.write_text("red 1 2 3\nblue 1 70000 2\n")
    words = ("encode-teacher", "--manifest", write_manifest(["red", "blue"]), "--teacher", teacher)
    message = run_cli.fails(*words)
    assert "float16 cannot hold 70000 (caption 'blue'). Use --embedding-dtype float32." in message
    assert run_cli(*words, "--embedding-dtype", "float32")["status"] == "created"


def test_encode__refuses_a_teacher_that_gives_no_finite_numbers(
    run_cli: Cli, write_manifest: Write, tmp_path: Path
) -> None:
    teacher = tmp_path / "broken.txt"
    teacher.write_text("red 1 2 3\nblue 1 nan 2\n")
    message = run_cli.fails("encode-teacher", "--manifest", write_manifest(["red", "blue"]), "--teacher", teacher)
    assert "it gave NaN or infinity for 1 captions, first 'blue'" in message


def test_encode__names_what_is_missing(run_cli: Cli, write_manifest: Write, word_vectors: Path, tmp_path: Path) -> None:
    manifest, missing = write_manifest(["red"]), tmp_path / "missing.txt"
    assert f"--manifest must name a file; got {missing}" in run_cli.fails(
        "encode-teacher", "--manifest", missing, "--teacher", word_vectors
    )
    assert f"got {missing}, which is not there" in run_cli.fails(
        "encode-teacher", "--manifest", manifest, "--teacher", missing
    )
    assert "--shard-rows must be a positive multiple of 256; got 100" in run_cli.fails(
        "encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--shard-rows", 100
    )


def test_encode__records_the_recipe_and_the_teacher(encode: Any, write_manifest: Write, bert_folder: Path) -> None:
    outcome = encode(write_manifest(CAPTIONS), "--prompt", "red ", "--max-tokens", 6, teacher=bert_folder)
    record = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    assert (record["params"]["prompt"], record["params"]["max_tokens"]) == ("red ", 6)
    assert "model.safetensors" in record["inputs"]["teacher"]["parts"]
    assert "device" not in record["params"]


@pytest.mark.parametrize(
    ("prefix", "left_out", "said"), [("model.", "no such name", ""), ("", ".layer.1.", "lacks layer 1. Fetch it again")]
)
def test_encode__finds_nothing_that_a_broken_teacher_once_made(
    prefix: str,
    left_out: str,
    said: str,
    encode: Any,
    run_cli: Cli,
    write_manifest: Write,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher, manifest = shutil.copytree(bert_folder, tmp_path / "teacher"), write_manifest(CAPTIONS)
    weights = safetensors.numpy.load_file(teacher / "model.safetensors")
    weights = {prefix + name: value for name, value in weights.items() if left_out not in name}
    safetensors.numpy.save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    with monkeypatch.context() as before:  # as it was, when such a teacher was embedded with random weights
        before.setattr(identity, "changes_on_loading", lambda folder: {})
        before.setattr(identity, "missing_layers", lambda folder: [])
        before.setattr(loading, "_check_whole", lambda faults, source: None)
        random = encode(manifest, teacher=teacher)
        assert encode(manifest, teacher=teacher)["status"] == "unchanged"
    asked = ("encode-teacher", "--manifest", manifest, "--teacher", teacher)
    if said:
        assert said in run_cli.fails(*asked)
    else:
        assert encode(manifest, teacher=teacher)["fingerprint"] != random["fingerprint"]
        assert counts_of(encode(manifest, teacher=teacher)) == (4, 0)  # no row of before is taken over


def test_encode__with_a_prompt_by_name_is_the_request_with_its_text(
    encode: Any, run_cli: Cli, write_manifest: Write, bert_folder: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(CAPTIONS)
    teacher = with_prompts(bert_folder, tmp_path / "teacher", {"passage": "blue ", "document": ""})
    plain = encode(manifest, teacher=teacher)
    outcome = encode(manifest, "--prompt-name", "passage", teacher=teacher)
    root = Path(outcome["path"])
    assert outcome["fingerprint"] != plain["fingerprint"]
    assert json.loads((root / "artifact.json").read_text())["params"]["prompt"] == "blue "
    same = [("--prompt", "blue "), ("--prompt", "blue ", "--prompt-name", "passage")]
    same += [("--config", root / "logs" / "config.toml")]
    for asked in same:
        again = encode(manifest, *asked, teacher=teacher)
        assert (again["status"], again["fingerprint"]) == ("unchanged", outcome["fingerprint"])
    assert encode(manifest, "--prompt-name", "document", teacher=teacher)["status"] == "unchanged"
    asked = ("encode-teacher", "--manifest", manifest, "--teacher", teacher, "--prompt-name")
    assert "--prompt-name must name a prompt" in run_cli.fails(*asked, "query", "--dry-run")
    assert "--prompt must be left out beside --prompt-name, which stands for 'blue '; got 'red '" in run_cli.fails(
        *asked, "passage", "--prompt", "red "
    )
    (root / "captions.parquet").write_bytes(b"damaged")
    assert run_cli.run("verify", "--repair", outcome["fingerprint"]).exit_code == 0
    assert encode(manifest, "--prompt-name", "passage", teacher=teacher)["digest"] == outcome["digest"]


def test_encode__takes_over_rows_from_before_the_precision_was_recorded(encode: Any, write_manifest: Write) -> None:
    manifest = write_manifest(CAPTIONS)
    root = Path(encode(manifest)["path"])
    record = ArtifactRecord.read(root)
    assert record.params.pop("teacher_precision") == "fp32"
    record.write(root)
    assert counts_of(encode(write_manifest([*CAPTIONS, "purple"]))) == (1, 4)
    assert counts_of(encode(manifest, "--teacher-precision", "bf16"))[1] == 0


def test_encode__records_how_near_fewer_bits_come(encode: Any, write_manifest: Write, bert_folder: Path) -> None:
    manifest = write_manifest(CAPTIONS)
    exact = encode(manifest, teacher=bert_folder)
    coarse = encode(manifest, "--teacher-precision", "bf16", teacher=bert_folder)
    assert exact["fingerprint"] != coarse["fingerprint"]
    assert "metrics" not in exact
    assert 0.9 < coarse["metrics"]["fp32_cosine_min"] <= coarse["metrics"]["fp32_cosine_mean"] < 1
    assert coarse["metrics"]["fp32_cosine_captions"] == 4


def test_encode__gives_the_same_on_several_devices(
    encode: Any, write_manifest: Write, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")  # to import nothing again; tests of the processes have them spawned
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: fork)
    manifest = write_manifest(counted_captions(600))
    words = ("--shard-rows", 256, "--batch-tokens", 64)
    alone = encode(manifest, *words, teacher=bert_folder)
    shared = encode(manifest, *words, "--device", "cpu,cpu", "--force", teacher=bert_folder)
    assert shared["digest"] == alone["digest"]


def test_encode__tells_of_its_progress_batch_by_batch(
    encode: Any, write_manifest: Write, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = counted_captions(40)
    encode(write_manifest(captions[:10]), teacher=bert_folder)
    told: list[int] = []
    monkeypatch.setattr(
        stages.components.embeddings.caption_embeddings,
        "progress",
        lambda *_, **__: contextlib.nullcontext(told.append),
    )
    encode(write_manifest(captions), "--batch-tokens", 20, teacher=bert_folder)
    assert len(told) > 5
    assert told[-1] == 10  # those of the one shard that were known
    assert sum(told) == 40


def test_encode__counts_zero_vectors_of_resumed_shards(
    encode: Any, write_manifest: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest([f"unheard{number}" for number in range(600)])
    with monkeypatch.context() as broken:
        broken.setattr(
            stages.components.teacher.teacher.Teacher,
            "start",
            _third_call_raises(stages.components.teacher.teacher.Teacher.start),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            encode(manifest, "--shard-rows", 256)
    counts = encode(manifest, "--shard-rows", 256)["counts"]
    assert (counts["resumed_captions"], counts["zero_captions"]) == (512, 600)


@pytest.mark.parametrize("removed", [False, True], ids=["gc", "no lock is heard"])
def test_encode__beside_a_gc_gives_the_teachers_rows(
    removed: bool, encode: Any, write_manifest: Write, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment after a source's sizes were looked at, gc runs; where it hears of no use, the source goes."""
    captions = counted_captions(300)
    source, newest = encode(write_manifest(captions[:200])), encode(write_manifest(["yellow"], "other.tsv"))
    opened, pages = EmbeddingArray.open, []

    def then_collect(root: Path, **kind: Any) -> EmbeddingArray:
        embeddings = opened(root, **kind)
        if root == Path(source["path"]) and not pages:
            pages.append("")
            if removed:
                monkeypatch.setattr("pipeline.maintenance.garbage.digests_in_use", lambda store: set())
            pages.append(run_cli.run("gc", "--yes").output)
        return embeddings

    monkeypatch.setattr(EmbeddingArray, "open", then_collect)
    outcome = encode(write_manifest(captions, "all.tsv"))
    monkeypatch.undo()
    assert Path(source["path"]).exists() != removed
    assert Path(newest["path"]).exists()
    assert counts_of(outcome) == ((300, 0) if removed else (100, 200))
    expected = rows_of(encode(write_manifest(captions, "all.tsv"), "--force"))
    for caption, row in rows_of(outcome).items():
        np.testing.assert_array_equal(row, expected[caption])


def test_encode__commits_nothing_when_its_manifest_changes_meanwhile(
    encode: Any, write_manifest: Write, run_cli: Cli, word_vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(CAPTIONS)
    before, real = manifest.read_bytes(), stages.components.teacher.teacher.Teacher.start

    def then_change(self: Any, batches: Sequence[Batch], **options: Any) -> Any:
        manifest.write_bytes(before.replace(b"yellow", b"purple"))
        return real(self, batches, **options)

    words = ("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    with monkeypatch.context() as patch:
        patch.setattr(stages.components.teacher.teacher.Teacher, "start", then_change)
        message = run_cli.fails(*words)
    assert (
        f"inputs of encode-teacher must stay as they are while it runs; got others by now: manifest {manifest}"
        in message
    )
    assert "purple" in rows_of(encode(manifest))
    manifest.write_bytes(before)
    assert "yellow" in rows_of(encode(manifest))


@pytest.mark.parametrize("name", ["manifest", "teacher"])
def test_encode__refuses_what_was_other_while_it_was_read(
    write_manifest: Write,
    run_cli: Cli,
    word_vectors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    manifest, teacher = write_manifest(CAPTIONS), shutil.copy(word_vectors, tmp_path / "own.txt")
    place, owner, method = {
        "manifest": (manifest, stages.components.inputs.manifest_options.ManifestFormat, "read"),
        "teacher": (teacher, stages.components.teacher.teacher.Teacher, "__init__"),
    }[name]
    before, real, kept = place.read_bytes(), getattr(owner, method), place.stat()

    def read_other(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.02)  # a kernel's clock moves by ticks
        place.write_bytes(before.replace(b"yellow", b"purple"))
        try:
            return real(*arguments, **options)
        finally:
            place.write_bytes(before)
            os.utime(place, ns=(kept.st_atime_ns, kept.st_mtime_ns))

    words = ("encode-teacher", "--manifest", manifest, "--teacher", teacher)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, read_other)
        message = run_cli.fails(*words)
    assert f"inputs of encode-teacher must stay as they are while it reads them; written meanwhile: {place}" in message
    assert "yellow" in rows_of(run_cli(*words))


def test_encode__takes_no_shards_of_a_killed_run_that_read_other_captions(
    encode: Any, write_manifest: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when a manifest is changed after it was hashed, before it is read, and back after the kill."""
    from stages.encode_teacher import caption_index

    manifest, words = write_manifest(counted_captions(900)), ("--shard-rows", 256)
    undisturbed = encode(manifest, *words, "--store", tmp_path / "undisturbed")
    index = caption_index.index_captions
    with monkeypatch.context() as broken:
        broken.setattr(caption_index, "index_captions", lambda table: index(table.take(list(range(900))[::-1])))
        real = stages.components.teacher.teacher.Teacher.start
        broken.setattr(stages.components.teacher.teacher.Teacher, "start", _third_call_raises(real))
        with pytest.raises(RuntimeError, match="power cut"):
            encode(manifest, *words)
    outcome = encode(manifest, *words)
    assert outcome["counts"]["resumed_captions"] == 0
    assert (outcome["fingerprint"], outcome["digest"]) == (undisturbed["fingerprint"], undisturbed["digest"])


def test_verify__repairs_embeddings_that_an_earlier_version_committed_with_nan(
    encode: Any, write_manifest: Write, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = stages.components.embeddings.caption_embeddings
    real = module.store_as

    def with_nan(*arguments: Any, **options: Any) -> Any:
        stored = real(*arguments, **options)
        stored[1] = np.nan
        return stored

    manifest = write_manifest(CAPTIONS)
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "store_as", with_nan)
        earlier.setattr(EmbeddingArray, "_check_finite", lambda *_args, **_options: None)
        outcome = encode(manifest)
    assert encode(manifest)["status"] == "unchanged"
    message = run_cli.run("verify").output
    assert "embeddings.zarr/c/0/0: has NaN or infinity in 1 rows, first row 1" in message
    assert "It was made anew, with other bytes: digest " in run_cli.run("verify", "--repair").output
    assert run_cli.run("verify").exit_code == 0
    mended = encode(manifest)
    assert (mended["status"], mended["fingerprint"]) == ("unchanged", outcome["fingerprint"])
    assert np.isfinite(np.stack(list(rows_of(mended).values()))).all()


def _explode(*args: object, **kwargs: object) -> None:
    raise AssertionError("the teacher was loaded")


def _third_call_raises(real: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def start(self: Any, batches: Sequence[Batch], **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("power cut")
        return real(self, batches, **options)

    return start


def test_encode__names_a_store_that_cannot_be_written(
    run_cli: Cli, write_manifest: Callable[..., Path], word_vectors: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    words = ("encode-teacher", "--manifest", write_manifest(["red circle"]), "--teacher", word_vectors)
    message = run_cli.fails(*words, "--store", tmp_path / "file" / "store")
    assert str(tmp_path / "file" / "store") in message
    assert "Give --store a folder that you may write to" in message


def test_verify__runs_no_code_of_a_teacher_that_only_a_record_trusts(
    encode: Any, run_cli: Cli, write_manifest: Write, num_encoded: list[int]
) -> None:
    outcome = encode(write_manifest(CAPTIONS), "--trust-remote-code")
    captions = Path(outcome["path"]) / "captions.parquet"
    whole = captions.read_bytes()
    captions.write_bytes(whole[:-1])
    before = len(num_encoded)
    refused = run_cli.run("verify", "--repair")
    assert "--trust-remote-code must be given again where a record asks for code to be run" in refused.output
    assert (refused.exit_code, captions.read_bytes(), len(num_encoded)) == (1, whole[:-1], before)
    assert run_cli.run("verify", "--repair", "--trust-remote-code").exit_code == 0
    assert captions.read_bytes() == whole
