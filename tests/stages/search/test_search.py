"""The command search: by words and by image, among images and among captions, each in its own space."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import Embedded
from workbench import SMALL, Cli, make_pairs, make_word_vectors

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.pair_index import read_captions
from pipeline.store.store import Store
from stages.components.embeddings.searchable import find_searchable, read_rows


def search(run_cli: Cli, *words: object) -> dict[str, Any]:
    return run_cli("search", "--device", "cpu", *words)


def test_search__finds_an_image_by_itself(embedded: Embedded, run_cli: Cli) -> None:
    image = embedded.images.images[5]
    hits = search(run_cli, "--picture", embedded.images.root / image, "--top", 3)
    [query] = hits["queries"]
    assert query["results"][0]["image"] == image
    assert query["results"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert [hit["rank"] for hit in query["results"]] == [1, 2, 3]
    assert hits["in"]["stage"] == "embed"


def test_search__ranks_images_by_their_cosine_with_the_words(embedded: Embedded, run_cli: Cli) -> None:
    # The caption's embedding is taken from encode-teacher's artifact, not from a second run of the teacher.
    captions = find_searchable(
        str(next((embedded.store / "encode-teacher").glob("[!.]*"))), store=Store(embedded.store)
    )
    place = read_captions(captions.path).to_pylist().index("green square")
    images = read_rows(find_searchable(None, store=Store(embedded.store)))
    cosines = images.values @ read_rows(captions).values[place]
    [query] = search(run_cli, "--text", "green square", "--top", 24)["queries"]
    assert [hit["row"] for hit in query["results"]] == np.argsort(-cosines, kind="stable").tolist()
    np.testing.assert_allclose([hit["score"] for hit in query["results"]], -np.sort(-cosines), atol=1e-3)


def test_search__finds_captions_by_image(embedded: Embedded, run_cli: Cli) -> None:
    [encoded] = (embedded.store / "encode-teacher").glob("[!.]*")
    image = embedded.images.root / embedded.images.images[0]
    found = search(run_cli, "--in", encoded.name[:8], "--picture", image, "--text", "red circle", "--top", 24)
    by_text, by_image = found["queries"]
    assert found["in"]["stage"] == "encode-teacher"
    assert {hit["caption"] for hit in by_image["results"]} == set(embedded.images.captions)
    assert by_text["results"][0]["caption"] == "red circle"
    assert by_text["results"][0]["images"] == ["images/000.jpg"]


def test_search__prints_ranks_scores_and_paths(embedded: Embedded, run_cli: Cli) -> None:
    result = run_cli.run("search", "--device", "cpu", "--text", "red circle", "--text", "blue", "--top", 2)
    blocks = [block.splitlines() for block in result.stdout.split("\n\n")]
    assert [block[0] for block in blocks] == ["red circle", "blue"]
    rank, score, path = blocks[0][1].split()
    assert (rank, path in embedded.images.images) == ("1", True)
    assert -1 <= float(score) <= 1


def test_search__shows_captions_that_give_a_terminal_no_order(
    embedded: Embedded, run_cli: Cli, write_manifest: Callable[..., Path], word_vectors: Path
) -> None:
    manifest = write_manifest(["red circle \x1b]52;c;cm0gLXJmIH4=\x07\x9b2J", "green \u202esquare"])
    encoded = run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    result = run_cli.run("search", "--in", encoded["fingerprint"], "--text", "red circle", "--device", "cpu")
    assert result.stdout.replace("\n", "").isprintable()
    assert r"red circle \u001b]52;c;cm0gLXJmIH4=\u0007\u009b2J" in result.stdout
    assert r"green \u202esquare" in result.stdout


def test_search__makes_its_index_once(embedded: Embedded, run_cli: Cli) -> None:
    search(run_cli, "--text", "red")
    [index] = (embedded.store / "index").glob("[!.]*")
    written = (index / "index.faiss").stat().st_mtime_ns
    search(run_cli, "--text", "blue")
    assert (index / "index.faiss").stat().st_mtime_ns == written


def test_search__says_so_where_the_teacher_knows_no_word(embedded: Embedded, run_cli: Cli) -> None:
    message = run_cli.fails("search", "--text", "xyzzy")
    assert "--text 'xyzzy' must have an embedding; it comes out as a zero vector" in message


def test_search__refuses_another_teacher(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(make_word_vectors(tmp_path / "words.txt").read_text().replace("0.1", "0.2"))
    message = run_cli.fails("search", "--text", "red", "--teacher", other)
    assert "--teacher must be the one that the student was distilled from" in message


def test_search__refuses_another_student(embedded: Embedded, run_cli: Cli) -> None:
    reference = f"{embedded.outcome['fingerprint']}"
    student = next((embedded.store / "distill").glob("[!.]*")).name
    image = embedded.images.root / embedded.images.images[0]
    message = run_cli.fails("search", "--in", reference, "--picture", image, "--student", f"{student}@epoch_1")
    assert "--student must be the one that embedded the images" in message


def test_search__needs_a_student_of_the_captions_teacher(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(make_word_vectors(tmp_path / "words.txt").read_text().replace("0.1", "0.2"))
    encoded = run_cli("encode-teacher", "--manifest", embedded.images.manifest, "--teacher", other)
    image = embedded.images.root / embedded.images.images[0]
    words = ("search", "--in", encoded["fingerprint"], "--picture", image)
    assert "must hold a student of the teacher that embedded the captions" in run_cli.fails(*words)
    student = next((embedded.store / "distill").glob("[!.]*")).name
    assert "--student must have learned from the teacher" in run_cli.fails(*words, "--student", student)


def test_search__refuses_words_for_a_student_of_another_width(
    embedded: Embedded, run_cli: Cli, encoded_session: Any
) -> None:
    narrow = run_cli(
        "distill", *SMALL, "--student", "squeezenet1_1", "--epochs", 1, "--loss", "rkd=1", "--projection-dim", 8
    )
    words = ("embed", "--device", "cpu", "--workers", 0, "--manifest", embedded.images.manifest)
    outcome = run_cli(*words, "--student", narrow["fingerprint"])
    assert "as wide as its teacher; got 8 and 16" in run_cli.fails("search", "--text", "red", "--in", outcome["path"])
    image = embedded.images.root / embedded.images.images[2]
    [query] = search(run_cli, "--picture", image, "--in", outcome["path"])["queries"]
    assert query["results"][0]["image"] == embedded.images.images[2]


def test_search__refuses_a_file_that_is_no_image(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("no image")
    assert "--picture must name an image" in run_cli.fails("search", "--picture", tmp_path / "words.jpg")


def test_search__wants_to_know_what_for(embedded: Embedded, run_cli: Cli) -> None:
    assert "One of --text, --picture, --page and --serve must be given" in run_cli.fails("search")


def test_search__names_all_images_of_the_same_bytes(embedded: Embedded, run_cli: Cli, tmp_path: Path) -> None:
    images = make_pairs(tmp_path / "twice", 4, 40)
    (images.root / "images/zzz.jpg").write_bytes((images.root / "images/001.jpg").read_bytes())
    run_cli("embed", "--device", "cpu", "--workers", 0, "--images", images.root)
    [query] = search(run_cli, "--picture", images.root / "images/001.jpg", "--top", 1)["queries"]
    [hit] = query["results"]
    assert (hit["image"], hit["also"]) == ("images/001.jpg", ["images/zzz.jpg"])


def test_search__prints_one_json_object(embedded: Embedded, run_cli: Cli) -> None:
    result = run_cli.run("search", "--device", "cpu", "--text", "red", "--json")
    assert list(json.loads(result.stdout)) == ["in", "queries"]


def test_search__says_so_where_the_student_is_gone(embedded: Embedded, run_cli: Cli) -> None:
    [student] = (embedded.store / "distill").glob("[!.]*")
    shutil.rmtree(student)
    folder = embedded.store / "embed" / embedded.outcome["fingerprint"]
    record = ArtifactRecord.read(folder)
    moved = replace(record.inputs["student"], location=str(student))  # not where the fixture has it
    replace(record, inputs={**record.inputs, "student": moved}).write(folder)
    assert "The student that embedded the images must be in" in run_cli.fails("search", "--text", "red")
