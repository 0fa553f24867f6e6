"""The report from the command line: what it measures, shows, says to do, refuses; the same every time."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from features import make_features
from workbench import FEATURES, Cli, Pairs, make_manifest

import protorkd
from data_schemas.artifact_record import PAGE_NAME
from data_schemas.embedding_array import EmbeddingArray
from data_schemas.pair_index import read_pairs
from pipeline.store.store import Artifact, Store
from stages.components.report.thumbnails import stand_in

REPORT = ("report", "--device", "cpu", "--num-neighbours", 3)


def read(outcome: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((Path(outcome["path"]) / "report.json").read_text())
    return report


def page_of(outcome: dict[str, Any]) -> str:
    return (Path(outcome["path"]) / PAGE_NAME).read_text("utf-8")


def embeddings_of(store: Path) -> Artifact:
    return Store(store).artifacts("encode-teacher")[-1]


@pytest.fixture
def features(encoded: Pairs, store: Path) -> Artifact:
    """Features of the 24 images from which their captions follow, turned, with one that never varies."""
    captions = EmbeddingArray.open(embeddings_of(store).path)
    rows = captions.read(0, captions.rows).astype(np.float32)[read_pairs(embeddings_of(store).path)["caption_row"]]
    generator = np.random.default_rng(0)
    turned = rows @ generator.normal(size=(rows.shape[1], 6)) + 0.1 * generator.normal(size=(len(rows), 6))
    values = np.hstack([turned, np.ones((len(rows), 1))]).astype(np.float32)
    return make_features(store, encoded.images, values)


def test_report__without_features_is_of_captions_alone(run_cli: Cli, encoded: Pairs) -> None:
    outcome = run_cli(*REPORT)
    report, page = read(outcome), page_of(outcome)
    assert report["captions"]["num_pairs"] == outcome["counts"]["pairs"] == 24
    assert not {"images", "together", "baseline", "examples", "coverage"} & report.keys()
    assert "Captions alone" in outcome["counts"]["advice"]
    assert "Few pairs: 24" in page
    assert "<img" not in page
    assert outcome["metrics"].keys() == {"captions/effective_rank", "captions/near_duplicates"}


def test_report__says_whether_features_fit_the_captions(run_cli: Cli, encoded: Pairs, features: Artifact) -> None:
    outcome = run_cli(*REPORT, "--features", features.path)
    report = read(outcome)
    assert report["images"]["num_distinct"] == report["images"]["num_compared"] == 24
    assert report["images"]["space"]["num_constant"] == 1
    assert report["together"]["mutual_knn"] == outcome["metrics"]["together/mutual_knn"] > report["together"]["chance"]
    assert report["baseline"]["num_held_out"] == 2
    assert report["inputs"] == {
        "embeddings": embeddings_of(run_cli.store).record.digest,
        "features": features.record.digest,
    }
    assert {len(report["examples"][name]) for name in ("farthest", "nearest")} == {12}
    cosines = [entry["cosine"] for entry in report["examples"]["farthest"]]
    assert cosines == sorted(cosines)
    for entry in report["examples"]["farthest"]:
        assert encoded.images[entry["pair"]] == entry["image"]
        assert encoded.captions[entry["pair"]] == entry["caption"]


def test_report__takes_the_newest_features(run_cli: Cli, encoded: Pairs, features: Artifact) -> None:
    named, newest = (run_cli(*REPORT, "--features", each) for each in (features.path, "newest"))
    assert newest["fingerprint"] == named["fingerprint"]


def test_page__shows_the_images(run_cli: Cli, encoded: Pairs, features: Artifact) -> None:
    page = page_of(run_cli(*REPORT, "--features", features.path))
    assert page.count("<img") == page.count("data:image/jpeg") >= 24
    assert stand_in() not in page
    assert "not shown" not in page


def test_page__goes_on_without_images_and_is_made_anew_where_they_come_back(
    run_cli: Cli, encoded: Pairs, features: Artifact, tmp_path: Path
) -> None:
    there = shutil.copytree(encoded.root, tmp_path / "there")
    embeddings = run_cli("encode-teacher", "--manifest", there / "pairs.tsv", "--teacher", teacher_of(run_cli.store))
    words = (*REPORT, "--features", features.path, "--embeddings", embeddings["path"])
    shown = run_cli(*words)
    (there / "images").rename(tmp_path / "elsewhere")
    gone = run_cli(*words)
    assert gone["status"] == "created"
    assert "The images are not shown" in page_of(gone)
    assert "<img" not in page_of(gone)
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "root" / "images")
    assert run_cli(*words, "--image-root", tmp_path / "root")["fingerprint"] == shown["fingerprint"]
    assert "--image-root must be the folder" in run_cli.fails(*words, "--image-root", tmp_path / "there")


def test_page__does_not_show_an_image_that_has_changed_since(
    run_cli: Cli, encoded: Pairs, tmp_path: Path, backbone_weights: Path
) -> None:
    there = shutil.copytree(encoded.root, tmp_path / "there")
    shutil.copy(there / encoded.images[0], there / encoded.images[1])
    manifest = ("--manifest", there / "pairs.tsv")
    embeddings = run_cli("encode-teacher", *manifest, "--teacher", teacher_of(run_cli.store))
    features = run_cli(*FEATURES, *manifest, "--init-from", backbone_weights)
    (there / encoded.images[2]).write_bytes((there / encoded.images[3]).read_bytes())
    (there / encoded.images[4]).unlink()
    outcome = run_cli(*REPORT, "--embeddings", embeddings["path"], "--features", features["path"])
    page = page_of(outcome)
    assert {encoded.images[number] for number in (2, 4)} == set(re.findall(r'title="not shown: ([^"]*)"', page))
    assert "In 2 places a grey square stands for an image" in page
    images = read(outcome)["images"]
    assert (images["num_images"], images["num_distinct"], images["num_equal"]) == (24, 23, 2)
    assert "squeezenet1_1" in page


def teacher_of(store: Path) -> str:
    return embeddings_of(store).record.inputs["teacher"].location


def test_report__is_the_same_every_time(run_cli: Cli, encoded: Pairs, features: Artifact) -> None:
    words = (*REPORT, "--features", features.path)
    first, again, forced = run_cli(*words), run_cli(*words), run_cli(*words, "--force")
    assert [outcome["status"] for outcome in (first, again, forced)] == ["created", "unchanged", "created"]
    assert first["digest"] == forced["digest"]
    result = run_cli.run(*words)
    assert result.output.rstrip().endswith(f"open {Path(first['path']) / PAGE_NAME}")


@pytest.mark.parametrize(
    "option",
    [
        ("--false-negative-cosine", 0.8),
        ("--near-duplicate-cosine", 0.9),
        ("--sample-size", 5),
        ("--ridge-pairs", 10),
        ("--graph-captions", 0),
        ("--seed", 1),
    ],
    ids=lambda option: option[0],
)
def test_report__is_another_for_another_request(
    run_cli: Cli, encoded: Pairs, features: Artifact, option: tuple[object, ...]
) -> None:
    report = read(run_cli(*REPORT, "--features", features.path, *option))
    match option[0]:
        case "--sample-size":
            assert report["together"]["num_pairs"] == report["captions"]["nearness"]["num_sampled"] == 5
        case "--ridge-pairs":
            assert report["baseline"]["num_fitted"] + report["baseline"]["num_held_out"] == 10
        case "--graph-captions":
            assert report["captions"]["near_duplicates"]["is_estimate"]
        case "--false-negative-cosine":
            assert 0.8 in [rate["cosine"] for rate in report["captions"]["nearness"]["false_negatives"]]
    assert report["settings"][str(option[0])[2:].replace("-", "_")] == option[1]


def test_report__counts_captions_near_queries(run_cli: Cli, encoded: Pairs, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("red circle\n\nunheard\nzero\nred circle\n")
    outcome = run_cli(*REPORT, "--queries", tmp_path / "queries.txt", "--coverage-cosine", 0.99)
    first, second, third = read(outcome)["coverage"]
    assert (first["query"], first["num_captions"], first["nearest"]) == ("red circle", 1, "red circle")
    assert first["cosine"] == pytest.approx(1, abs=1e-3)
    assert second == {"query": "unheard", "num_captions": 0, "nearest": None, "cosine": 0.0}
    assert third["num_captions"] == 0
    assert "2 of 3 queries have no caption near them" in outcome["counts"]["advice"]
    assert "the text model knows no word of it" in page_of(outcome)


def test_report__tells_the_balance_of_prototypes(run_cli: Cli, encoded: Pairs) -> None:
    prototypes = run_cli("prototypes", "--num-prototypes", 4)
    balance = read(run_cli(*REPORT, "--prototypes", prototypes["path"]))["captions"]["balance"]
    assert (balance["num_prototypes"], balance["largest"]) == (4, prototypes["counts"]["largest_size"])


def test_report__refuses_prototypes_of_other_captions(run_cli: Cli, encoded: Pairs, tmp_path: Path) -> None:
    prototypes = run_cli("prototypes", "--num-prototypes", 4)
    manifest = make_manifest(tmp_path / "other.tsv", ["a.jpg", "b.jpg"], ["red", "blue"])
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", teacher_of(run_cli.store))
    message = run_cli.fails(*REPORT, "--prototypes", prototypes["path"])
    assert "--prototypes must be of the captions of --embeddings" in message


def test_report__refuses_features_of_other_images(run_cli: Cli, encoded: Pairs, store: Path) -> None:
    other = make_features(store, [f"other/{number}.jpg" for number in range(24)], np.eye(24, 5, dtype=np.float32))
    message = run_cli.fails(*REPORT, "--features", other.path)
    assert "--features must be of the images that the pairs name" in message
    assert other.record.digest[:12] in message
    assert embeddings_of(store).record.digest[:12] in message


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "--queries must name a text file"), (b"\n \n", "must hold a query a line"), (b"\xff\xfe\xff", "UTF-8")],
)
def test_report__refuses_queries_that_are_none(
    run_cli: Cli, encoded: Pairs, tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "queries.txt").write_bytes(content)
    assert said in run_cli.fails(*REPORT, "--queries", tmp_path / "queries.txt")


def test_report__refuses_captions_of_which_the_teacher_knows_fewer_than_two(
    run_cli: Cli, tmp_path: Path, word_vectors: Path
) -> None:
    manifest = make_manifest(tmp_path / "pairs.tsv", ["a.jpg", "b.jpg"], ["red", "unheard"])
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    assert "--embeddings must hold two captions or more" in run_cli.fails(*REPORT)


def test_report__refuses_damaged_features(run_cli: Cli, encoded: Pairs, features: Artifact) -> None:
    shard = features.path / "features.zarr/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    assert "must be as it was written" in run_cli.fails(*REPORT, "--features", features.path)


def test_report__is_a_function_in_python(encoded: Pairs, features: Artifact, store: Path) -> None:
    result = protorkd.report(features=features.path, num_neighbours=3, device="cpu", store=store, quiet=True)
    assert (result.path / PAGE_NAME).is_file()
    assert result.metrics["ridge/mean_recall"] > 0


def test_page__escapes_captions(run_cli: Cli, tmp_path: Path, word_vectors: Path, store: Path) -> None:
    hostile = "red <script>alert(1)</script> <img src=http://example.org/x.png>"
    images = [f"{number}.jpg" for number in range(4)]
    manifest = make_manifest(tmp_path / "pairs.tsv", images, [hostile, "blue", "green", "red circle"])
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors)
    features = make_features(store, images, np.eye(4, 3, dtype=np.float32))
    page = page_of(run_cli(*REPORT, "--features", features.path, "--near-duplicate-cosine", 0.1))
    assert "red &lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "<img src=http" not in page
