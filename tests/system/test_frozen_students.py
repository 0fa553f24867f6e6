"""A student of a frozen backbone in every command that takes a student: nothing tells it from any other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones import make_tiny_backbone
from features import make_features
from frozen_students import make_frozen_student
from workbench import COLOURS, SHAPES, Cli, Pairs, draw_image, make_pairs

import protorkd
from data_schemas.embedding_array import IMAGE_KIND, EmbeddingArray
from pipeline.commands.store_options import open_store
from pipeline.store.store import Artifact, Store

ON_CPU = ("--device", "cpu", "--workers", 0, "--precision", "fp32")
EVALUATE = ("evaluate", *ON_CPU, "--num-resamples", 100, "--no-overlap")


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.fixture
def backbone(opened: Store) -> Artifact:
    return make_tiny_backbone(opened)


@pytest.fixture
def student(opened: Store, backbone: Artifact) -> Artifact:
    return make_frozen_student(opened, backbone)


@pytest.fixture
def vectors_only(opened: Store) -> Artifact:
    return make_frozen_student(opened, None)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder of class folders with train/ and test/: four colours, an image of each shape."""
    root = tmp_path / "shapes"
    for split, size in (("train", 44), ("test", 40)):
        for colour in COLOURS[:4]:
            for shape in SHAPES:
                path = root / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, size)
    return root


def no_pass(*_arguments: Any, **_options: Any) -> None:
    raise AssertionError("an image was embedded again")


def test_evaluate__passes_over_images_once_for_all_heads_on_a_backbone(
    opened: Store, backbone: Artifact, encoded: Pairs, classes: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = [make_frozen_student(opened, backbone, seed=seed) for seed in (0, 1)]
    sets = ("--retrieval", encoded.manifest, "--knn", classes, "--linear-probe", classes, "--knn-k", 3)
    first = run_cli(*EVALUATE, *sets, "--student", students[0].path)
    monkeypatch.setattr("stages.evaluate.embeddings.image_pass.student_embeddings", no_pass)
    second = run_cli(*EVALUATE, *sets, "--student", students[1].path)
    assert len(opened.artifacts("image-embeddings")) == 3  # of the pairs, and of both splits of the classes
    of_heads = ("pairs/mean_recall", "shapes/knn/top1")
    assert [first["metrics"][name] for name in of_heads] != [second["metrics"][name] for name in of_heads]
    for name in ("shapes/knn_backbone/top1", "shapes/linear_probe_backbone/top1"):
        assert first["metrics"][name] == second["metrics"][name]
    assert run_cli(*EVALUATE, *sets, "--student", students[0].path)["status"] == "unchanged"


def test_evaluate__ranks_by_the_embeddings_of_the_student(
    student: Artifact, encoded: Pairs, run_cli: Cli, store: Path
) -> None:
    metrics = run_cli(*EVALUATE, "--retrieval", encoded.manifest)["metrics"]
    paths = [encoded.root / name for name in encoded.images]
    images = protorkd.load_student(student.path, store=store, device="cpu").encode(paths, normalize=True)
    captions = protorkd.load_embeddings(store=store)
    texts = captions.embeddings[:].astype(np.float32)
    scores = texts / np.linalg.norm(texts, axis=1, keepdims=True) @ images.T
    ranks = [1 + int((row > row[place]).sum()) for place, row in enumerate(scores)]
    assert metrics["pairs/text_to_image/recall@5"] == pytest.approx(100 * np.mean([rank <= 5 for rank in ranks]))


def test_evaluate__says_that_images_behind_features_are_not_known(
    student: Artifact, encoded: Pairs, run_cli: Cli
) -> None:
    with_overlap = [word for word in EVALUATE if word != "--no-overlap"]
    result = run_cli.run(*with_overlap, "--retrieval", encoded.manifest)
    assert result.exit_code == 0
    assert "does not say which images their features are of" in result.stderr


def test_commands__take_a_student_that_has_its_backbone_and_a_head_on_features_as_any_other(
    opened: Store, backbone: Artifact, encoded: Pairs, classes: Path, run_cli: Cli
) -> None:
    sets = ("--retrieval", encoded.manifest, "--knn", classes, "--knn-k", 3)
    shared = make_frozen_student(opened, backbone)
    expected = run_cli(*EVALUATE, *sets, "--student", shared.path)["metrics"]
    rows = run_cli("embed", "--manifest", encoded.manifest, *ON_CPU, "--student", shared.path)
    own = make_frozen_student(opened, backbone, owns_backbone=True)
    shutil.rmtree(backbone.path)
    assert run_cli(*EVALUATE, *sets, "--student", own.path)["metrics"] == expected
    own_rows = run_cli("embed", "--manifest", encoded.manifest, *ON_CPU, "--student", own.path)
    tables = [EmbeddingArray.open(Path(each["path"]), kind=IMAGE_KIND) for each in (rows, own_rows)]
    ours, shared_rows = (each.read(0, each.rows) for each in tables)
    np.testing.assert_allclose(ours, shared_rows, atol=2e-3)  # the shared backbone's features are kept in float16


def test_compare__takes_two_heads_on_one_backbone(
    opened: Store, backbone: Artifact, encoded: Pairs, run_cli: Cli
) -> None:
    students = [make_frozen_student(opened, backbone, seed=seed) for seed in (0, 1)]
    evaluations = [run_cli(*EVALUATE, "--retrieval", encoded.manifest, "--student", each.path) for each in students]
    result = run_cli.run("compare", *(each["fingerprint"] for each in evaluations))
    assert result.exit_code == 0
    assert "mean_recall" in result.output


def test_embed_and_search__find_images_by_words_and_by_image(
    student: Artifact, encoded: Pairs, run_cli: Cli, store: Path, tmp_path: Path
) -> None:
    outcome = run_cli("embed", "--manifest", encoded.manifest, *ON_CPU, "--embedding-dtype", "float32")
    rows = EmbeddingArray.open(Path(outcome["path"]), kind=IMAGE_KIND)
    paths = [encoded.root / name for name in encoded.images]
    wanted = protorkd.load_student(student.path, store=store, device="cpu").encode(paths)
    np.testing.assert_allclose(rows.read(0, rows.rows), wanted, rtol=2e-3, atol=1e-3)  # features are kept as float16
    found = run_cli.run("search", "--picture", paths[3], "--text", "red circle", "--device", "cpu", "--json")
    by_words, by_image = json.loads(found.stdout)["queries"]
    assert by_image["results"][0]["image"] == encoded.images[3]
    assert by_image["results"][0]["score"] > 1 - 1e-5  # the query's features are not rounded
    assert len(by_words["results"]) == len(by_image["results"])
    page = tmp_path / "page.html"
    run_cli.run("search", "--page", page, "--device", "cpu")
    assert encoded.images[0] in page.read_text()
    captions = opened_captions(store)
    by_student = run_cli.run("search", "--in", captions, "--picture", paths[3], "--device", "cpu", "--json")
    assert json.loads(by_student.stdout)["queries"][0]["results"]


def opened_captions(store: Path) -> str:
    return Store(store).artifacts("encode-teacher")[-1].record.fingerprint


@pytest.mark.parametrize(
    "command",
    [
        lambda pairs: ("embed", "--manifest", pairs.manifest, *ON_CPU),
        lambda pairs: (*EVALUATE, "--retrieval", pairs.manifest),
        lambda _: ("export",),
        lambda pairs: ("search", "--in", "CAPTIONS", "--picture", pairs.root / pairs.images[0], "--device", "cpu"),
    ],
    ids=["embed", "evaluate", "export", "search"],
)
def test_commands__say_that_a_student_of_another_tools_features_takes_vectors_alone(
    command: Callable[[Pairs], tuple[object, ...]], vectors_only: Artifact, encoded: Pairs, run_cli: Cli, store: Path
) -> None:
    words = [opened_captions(store) if word == "CAPTIONS" else word for word in command(encoded)]
    message = run_cli.fails(*words)
    assert "takes vectors of that tool alone" in message
    assert "evaluate --image-vectors" in message


@pytest.mark.parametrize("command", ["embed", "evaluate", "export"])
def test_commands__name_a_missing_backbone(
    command: str, student: Artifact, backbone: Artifact, encoded: Pairs, run_cli: Cli
) -> None:
    shutil.rmtree(backbone.path)
    words = {
        "embed": ("embed", "--manifest", encoded.manifest, *ON_CPU),
        "evaluate": (*EVALUATE, "--retrieval", encoded.manifest),
        "export": ("export",),
    }
    assert "encode-images --backbone timm:test_resnet --image-size 32" in run_cli.fails(*words[command])


def test_verify__names_a_student_whose_backbone_is_gone(
    student: Artifact, backbone: Artifact, run_cli: Cli, store: Path
) -> None:
    assert run_cli.run("verify").exit_code == 0
    shutil.rmtree(backbone.path)
    result = run_cli.run("verify", student.record.fingerprint)
    assert result.exit_code == 1
    assert "whole, and NOT USABLE" in result.stdout
    assert "encode-images --backbone timm:test_resnet --image-size 32" in result.stdout
    assert "1 of 1 have not" in result.stderr
    assert run_cli.run("verify", "--repair", student.record.fingerprint).exit_code == 1
    assert not (store / ".set-aside").exists()
    reported = json.loads(run_cli.run("verify", "--json").stdout)
    assert not reported["whole"]


def test_gc__keeps_the_backbone_and_the_features_of_a_student(
    opened: Store, backbone: Artifact, encoded: Pairs, run_cli: Cli
) -> None:
    values = np.ones((len(encoded.images), 4), np.float16)
    features = make_features(opened, encoded.images, values)
    student = make_frozen_student(opened, backbone, features=features)
    make_tiny_backbone(opened, seed=1)  # newer, of no student; the newest of its stage stays as well
    unused = make_features(opened, encoded.images[:5], values[:5])
    make_features(opened, encoded.images[:6], values[:6])
    run_cli.run("gc", "--yes")
    kept = {artifact.path for artifact in opened.artifacts()}
    assert {student.path, backbone.path, features.path} <= kept
    assert unused.path not in kept
    run_cli.run("gc", "--yes", "--drop", student.record.fingerprint)
    gone = {artifact.path for artifact in opened.artifacts()}
    assert not {student.path, backbone.path, features.path} & gone


def test_status__tells_what_a_student_was_made_from(
    opened: Store, backbone: Artifact, encoded: Pairs, run_cli: Cli
) -> None:
    features = make_features(opened, encoded.images, np.ones((len(encoded.images), 4), np.float16))
    make_frozen_student(opened, backbone, features=features)
    text = run_cli.run("status").stdout
    assert features.name in next(line for line in text.splitlines() if line.startswith("distill"))
    assert "backbone  1 made on the way" in text


def test_embed__on_a_machine_that_has_nothing_fetches_student_and_backbone(
    bucket: str, word_vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, url = make_pairs(tmp_path / "images", 6, 40), f"{bucket}/store"
    monkeypatch.setenv("PROTORKD_STORE_CACHE", str(tmp_path / "one"))
    run: Any = Cli(url)  # type: ignore[arg-type]
    run("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    shared = open_store(url)
    make_frozen_student(shared, make_tiny_backbone(shared))
    monkeypatch.setenv("PROTORKD_STORE_CACHE", str(tmp_path / "two"))
    outcome = run("embed", "--manifest", pairs.manifest, *ON_CPU)
    assert outcome["counts"]["embedded_images"] == 6
    assert list((tmp_path / "two").rglob("backbone.safetensors"))
    monkeypatch.setenv("PROTORKD_STORE_CACHE", str(tmp_path / "three"))
    assert run.run("verify").exit_code == 0  # of what is in the bucket alone
