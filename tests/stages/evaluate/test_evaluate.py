"""Stage three from the command line: figures that an independent computation gives, a page, and nothing done twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from workbench import COLOURS, DISTILL, SHAPES, Cli, Pairs, draw_image, make_manifest

import stages.evaluate.run
from data_schemas.embedding_array import EmbeddingArray
from data_schemas.evaluation_report import read_report
from stages.components.compute.precision import choose_precision

EVALUATE = ("evaluate", "--device", "cpu", "--workers", 0)


@pytest.fixture
def image_pairs(encoded_session: tuple[Path, Pairs], tmp_path: Path) -> Pairs:
    """Return the 24 images that the student was trained on, in a folder that the test may change."""
    pairs = encoded_session[1]
    root = shutil.copytree(pairs.root, tmp_path / "set")
    return Pairs(root, root / "pairs.tsv", pairs.images, pairs.captions)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a folder of class folders with train/ and test/: six colours, an image of each shape."""
    root = tmp_path / "shapes"
    for split in ("train", "test"):
        for colour in COLOURS[:6]:
            for shape in SHAPES:
                path = root / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, 40)
    return root


def embeddings_of(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of the only image and caption embeddings in a store."""
    [images] = store.glob("image-embeddings/[!.]*/image_embeddings.safetensors")
    [captions] = store.glob("caption-embeddings/[!.]*")
    rows = load_file(images)["embeddings"]
    table = EmbeddingArray.open(captions)
    texts = table.read(0, table.rows).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), texts / np.linalg.norm(texts, axis=1, keepdims=True)


def test_evaluate__gives_the_recall_of_a_naive_ranking(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    metrics = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)["metrics"]
    images, captions = embeddings_of(run_cli.store)
    scores = captions @ images.T  # captions are distinct, in the order of the images
    for direction, table in (("text_to_image", scores), ("image_to_text", scores.T)):
        ranks = [1 + int((row > row[index]).sum()) for index, row in enumerate(table)]
        for k in (1, 5, 10):
            assert metrics[f"pairs/{direction}/recall@{k}"] == pytest.approx(100 * np.mean([r <= k for r in ranks]))
        assert metrics[f"pairs/{direction}/median_rank"] == np.median(ranks)


def test_evaluate__writes_a_report_and_a_page_with_images(
    trained: Any, image_pairs: Pairs, classes: Path, run_cli: Cli
) -> None:
    outcome = run_cli(
        *EVALUATE, "--retrieval", f"own={image_pairs.manifest}", "--zero-shot", classes, "--knn", classes, "--knn-k", 3
    )
    assert outcome["status"] == "created"
    names = set(outcome["metrics"])
    assert {"own/text_to_image/recall@10", "own/mean_recall", "shapes/zero_shot/top1", "shapes/knn/top5"} <= names
    recalls = {name: value for name, value in outcome["metrics"].items() if "recall" in name or "/top" in name}
    assert all(0 <= value <= 100 for value in recalls.values())
    folder = Path(outcome["path"])
    report = read_report(folder)
    assert report["metrics"] == outcome["metrics"]
    expected = ["retrieval", "geometry", "neighbourhoods", "zero_shot", "knn", "knn_backbone", "clustering"]
    assert [entry["task"] for entry in report["sets"]] == expected
    for entry in report["sets"]:
        assert entry["intervals"].keys() == entry["metrics"].keys(), entry["task"]
    assert report["teacher"]["identity"]
    assert report["student"]["backbone"] == "squeezenet1_1"
    assert report["student"]["precision"] == choose_precision("auto", torch.device("cpu"))
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 100
    assert image_pairs.captions[0] in page
    assert f"<dt>Pictures embedded in</dt><dd>{report['student']['precision']}</dd>" in page
    assert run_cli.run("verify").exit_code == 0


def test_evaluate__changes_nothing_when_asked_again(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    first = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    before = {path: path.stat().st_mtime_ns for path in run_cli.store.rglob("*")}
    again = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    assert (again["status"], again["digest"]) == ("unchanged", first["digest"])
    after = {path: path.stat().st_mtime_ns for path in run_cli.store.rglob("*")}
    assert {path for path in before | after if before.get(path) != after.get(path)} <= {run_cli.store}


def test_evaluate__refuses_an_image_that_changes_while_it_runs(
    trained: Any, image_pairs: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = stages.evaluate.run.jobs_of, image_pairs.root / image_pairs.images[5]

    def then_change(*arguments: Any) -> Any:
        draw_image(path, "red", "circle", 50)
        return real(*arguments)

    monkeypatch.setattr(stages.evaluate.run, "jobs_of", then_change)
    message = run_cli.fails(*EVALUATE, "--retrieval", image_pairs.manifest)
    assert f"{path} must be as it was when its bytes were hashed; it has changed." in message
    assert not list(run_cli.store.glob("*/[!.]*/image_embeddings.safetensors"))


def test_evaluate__embeds_nothing_again_when_a_setting_changes(
    trained: Any, classes: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.evaluate.embeddings.image_pass

    three = run_cli(*EVALUATE, "--knn", classes, "--knn-k", 3)
    monkeypatch.setattr(stages.evaluate.embeddings.image_pass, "student_embeddings", None)
    one = run_cli(*EVALUATE, "--knn", classes, "--knn-k", 1)
    assert one["status"] == "created"
    assert one["fingerprint"] != three["fingerprint"]


def test_evaluate__takes_several_captions_of_an_image_together(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    images = [image for image in image_pairs.images for _ in range(2)]
    captions = [text for caption in image_pairs.captions for text in (caption, f"one {caption}")]
    manifest = make_manifest(image_pairs.root / "twice.tsv", images, captions)
    outcome = run_cli(*EVALUATE, "--retrieval", manifest)
    [entry, *_] = read_report(Path(outcome["path"]))["sets"]
    assert (entry["num_images"], entry["num_captions"]) == (24, 48)
    assert entry["chance"]["text_to_image/recall@1"] == pytest.approx(100 / 24)
    assert entry["chance"]["image_to_text/recall@1"] == pytest.approx(100 * 2 / 48)


def test_evaluate__refuses_another_teacher(
    trained: Any, image_pairs: Pairs, run_cli: Cli, word_vectors: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(word_vectors.read_text().replace("0.1", "0.2", 1))
    message = run_cli.fails(*EVALUATE, "--retrieval", image_pairs.manifest, "--teacher", other)
    assert "--teacher must be the one that the student was distilled from" in message
    moved = shutil.copy(word_vectors, tmp_path / "same-bytes-elsewhere.txt")
    assert run_cli(*EVALUATE, "--retrieval", image_pairs.manifest, "--teacher", moved)["status"] == "created"


def test_evaluate__trusts_the_teachers_code_as_encoding_did(
    image_pairs: Pairs, run_cli: Cli, bert_folder: Path
) -> None:
    run_cli("encode-teacher", "--manifest", image_pairs.manifest, "--teacher", bert_folder, "--trust-remote-code")
    run_cli(*DISTILL)
    message = run_cli.fails(*EVALUATE, "--retrieval", image_pairs.manifest)
    assert "--trust-remote-code must be as it was for encode-teacher; pass it" in message
    assert run_cli(*EVALUATE, "--retrieval", image_pairs.manifest, "--trust-remote-code")["status"] == "created"


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_evaluate__counts_images_that_cannot_be_read(
    trained: Any, image_pairs: Pairs, run_cli: Cli, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = image_pairs.root / image_pairs.images[3]
    victim.unlink() if damage == "missing" else victim.write_bytes(victim.read_bytes()[:200])
    message = run_cli.fails(*EVALUATE, "--retrieval", image_pairs.manifest)
    assert "--max-bad-fraction" in message
    assert image_pairs.images[3] in message
    caplog.clear()
    outcome = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest, "--max-bad-fraction", 0.1)
    [entry, *_] = read_report(Path(outcome["path"]))["sets"]
    assert (entry["rejected"], entry["num_images"], entry["num_captions"]) == (1, 23, 23)
    assert any(f"(1 rejected, first {image_pairs.images[3]}" in said for said in caplog.messages)


def test_evaluate__measures_other_images_anew(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    first = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    shutil.copy(image_pairs.root / image_pairs.images[1], image_pairs.root / image_pairs.images[0])
    second = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    assert second["status"] == "created"
    assert second["fingerprint"] != first["fingerprint"]


def test_evaluate__says_what_it_must_be_given(trained: Any, run_cli: Cli, classes: Path, tmp_path: Path) -> None:
    assert "Pass --retrieval, --zero-shot, --knn" in run_cli.fails(*EVALUATE)
    assert "nothing there" in run_cli.fails(*EVALUATE, "--retrieval", tmp_path / "absent.tsv")
    assert "--template must hold {}" in run_cli.fails(*EVALUATE, "--zero-shot", classes, "--template", "a photo")
    twice = ("--zero-shot", classes, "--zero-shot", classes / "test")
    assert "its own name" in run_cli.fails(*EVALUATE, *twice)


def test_evaluate__notes_which_embeddings_it_used(
    trained: Any, image_pairs: Pairs, run_cli: Cli, write_manifest: Callable[..., Path]
) -> None:
    outcome = run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    record = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    assert len(record["uses"]) >= 2
    assert "Nothing to remove" in run_cli.run("gc", "--yes").stdout


def test_status__sums_up_what_an_evaluation_made_on_its_way(trained: Any, image_pairs: Pairs, run_cli: Cli) -> None:
    run_cli(*EVALUATE, "--retrieval", image_pairs.manifest)
    lines = run_cli.run("status").stdout.splitlines()
    made = {line.split("  ")[0]: line.split("  ")[1] for line in lines if "on the way" in line}
    assert made == {
        "caption-embeddings": "1 made on the way",
        "image-embeddings": "1 made on the way",
        "measurements": "3 made on the way",
        "picture-hashes": "1 made on the way",
    }
    next(run_cli.store.glob("measurements/[!.]*/entry.json")).unlink()
    assert "NOT WHOLE" in run_cli.run("status").stdout
