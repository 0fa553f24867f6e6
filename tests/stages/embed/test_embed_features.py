"""embed of students of a frozen backbone: the backbone sees each image once, whatever the number of heads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones import TINY, make_tiny_backbone
from frozen_students import make_frozen_student
from workbench import Cli, Pairs, Trained, draw_image, power_cut

import protorkd
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.embedding_array import IMAGE_KIND, EmbeddingArray
from data_schemas.images.embedded_images import read_images
from data_schemas.pair_index import read_rejected
from pipeline.store.store import Artifact, Store

ON_CPU = ("--device", "cpu", "--workers", 0, "--precision", "fp32")
EMBED = ("embed", *ON_CPU)
NUM = 12


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
def images(encoded: Pairs, pairs_folder: Callable[[int, int], Pairs]) -> Path:
    return pairs_folder(NUM, 40).root / "images"


def read(outcome: dict[str, Any]) -> np.ndarray:
    embeddings = EmbeddingArray.open(Path(outcome["path"]), kind=IMAGE_KIND)
    return embeddings.read(0, embeddings.rows)


def features_of(store: Store) -> list[ArtifactRecord]:
    return [artifact.record for artifact in store.artifacts("encode-images")]


def test_embed__opens_images_once_for_all_heads(
    opened: Store, backbone: Artifact, student: Artifact, images: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_frozen_student(opened, backbone, seed=1)
    first = run_cli(*EMBED, "--images", images, "--student", student.path)
    monkeypatch.setattr("stages.encode_images.run.compute_features", power_cut)
    second = run_cli(*EMBED, "--images", images, "--student", other.path, "--normalize")
    epoch = run_cli(*EMBED, "--images", images, "--student", f"{other.record.fingerprint}@epoch_1")
    assert len(features_of(opened)) == 1
    assert first["counts"]["embedded_images"] == second["counts"]["embedded_images"] == NUM
    assert (read(first) != read(second)).any()
    np.testing.assert_allclose(np.linalg.norm(read(second).astype(float), axis=1), 1, atol=1e-3)
    assert (read(epoch) != read(first)).any()


def test_embed__finds_the_features_that_were_made_by_hand(
    opened: Store, student: Artifact, backbone: Artifact, images: Path, run_cli: Cli
) -> None:
    weights = backbone.record.inputs["weights"].location
    by_hand = ("--backbone", TINY, "--init-from", weights, "--image-size", 32)
    made = run_cli("encode-images", "--images", images, *by_hand, *ON_CPU)
    outcome = run_cli(*EMBED, "--images", images)
    [features] = features_of(opened)
    record = ArtifactRecord.read(Path(outcome["path"]))
    assert features.fingerprint == made["fingerprint"]
    assert {features.digest, backbone.record.digest, student.record.digest} == set(record.uses)
    assert run_cli("encode-images", "--images", images, "--student", student.path, *ON_CPU)["status"] == "unchanged"


def test_embed__gives_the_same_whatever_features_the_store_holds(
    opened: Store, student: Artifact, backbone: Artifact, images: Path, run_cli: Cli, tmp_path: Path
) -> None:
    like = ("encode-images", "--images", images, "--student", student.path, *ON_CPU)
    run_cli(*like, "--feature-dtype", "float32")
    run_cli(*like, "--views", 2, "--augmentation", "light")
    outcome = run_cli(*EMBED, "--images", images)
    elsewhere = Cli(tmp_path / "elsewhere")
    alone = elsewhere(*EMBED, "--images", images, "--student", student.path)
    assert (alone["fingerprint"], alone["digest"]) == (outcome["fingerprint"], outcome["digest"])
    [features] = features_of(Store(tmp_path / "elsewhere"))
    assert features.counts["encoded_rows"] == NUM
    assert features.params["feature_dtype"] == "float16"
    reused = [each for each in features_of(opened) if each.params["feature_dtype"] == "float16"][-1]
    assert reused.counts["reused_rows"] == NUM


def test_embed__applies_the_head_to_the_features_of_each_image_alone(
    student: Artifact, images: Path, run_cli: Cli, store: Path
) -> None:
    outcome = run_cli(*EMBED, "--images", images, "--embedding-dtype", "float32", "--shard-rows", 256)
    table = read_images(Path(outcome["path"]))
    loaded = protorkd.load_student(student.path, store=store, device="cpu")
    for row, name in zip(table["image_row"].to_pylist(), table["image"].to_pylist(), strict=True):
        [wanted] = loaded.encode([images / name])
        np.testing.assert_allclose(read(outcome)[row], wanted, rtol=2e-3, atol=1e-3)


def test_embed__computes_the_features_of_a_new_image_alone(
    opened: Store, student: Artifact, images: Path, run_cli: Cli
) -> None:
    first = run_cli(*EMBED, "--images", images)
    draw_image(images / "zzz.jpg", "pink", "circle", 40)
    second = run_cli(*EMBED, "--images", images)
    newest = max(features_of(opened), key=lambda record: record.counts["images"])
    assert (newest.counts["encoded_rows"], newest.counts["reused_rows"]) == (1, NUM)
    np.testing.assert_array_equal(read(second)[:NUM], read(first))


def test_embed__keeps_rows_of_zeros_of_what_cannot_be_read(student: Artifact, images: Path, run_cli: Cli) -> None:
    names = sorted(path.name for path in images.iterdir())
    for name in (names[1], "copy.jpg"):
        (images / name).write_bytes(b"no image")
    assert "--max-bad-fraction" in run_cli.fails(*EMBED, "--images", images)
    outcome = run_cli(*EMBED, "--images", images, "--max-bad-fraction", 0.2)
    rejected = read_rejected(Path(outcome["path"]))
    assert [entry.value for entry in rejected] == [names[1], "copy.jpg"]
    assert (outcome["counts"]["rejected_images"], outcome["counts"]["embedded_images"]) == (2, NUM - 1)
    rows = read_images(Path(outcome["path"]))["image_row"].to_pylist()
    assert sorted(set(range(NUM)) - set(rows)) == [1]
    assert not read(outcome)[1].any()
    assert read(outcome)[rows].any(axis=1).all()


def test_embed__goes_on_from_the_features_of_a_killed_run(
    opened: Store, student: Artifact, images: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("stages.embed.features.store_as", lambda *_args, **_options: power_cut())
        with pytest.raises(RuntimeError, match="power cut"):
            run_cli(*EMBED, "--images", images)
    monkeypatch.setattr("stages.encode_images.run.compute_features", power_cut)
    assert run_cli(*EMBED, "--images", images)["counts"]["embedded_images"] == NUM


def test_gc__keeps_the_features_of_embedded_images(
    opened: Store, student: Artifact, images: Path, run_cli: Cli
) -> None:
    run_cli(*EMBED, "--images", images)
    [features] = features_of(opened)
    draw_image(images / "zzz.jpg", "pink", "circle", 40)
    run_cli("encode-images", "--images", images, "--student", student.path, *ON_CPU)  # the newest stays anyhow
    run_cli.run("gc", "--yes")
    assert features.fingerprint in [record.fingerprint for record in features_of(opened)]


def test_encode_images__takes_the_backbone_of_a_student_alone(
    undisturbed: Trained, student: Artifact, images: Path, run_cli: Cli
) -> None:
    like = ("encode-images", "--images", images, *ON_CPU)
    assert "must have a frozen backbone" in run_cli.fails(*like, "--student", undisturbed.outcome["path"])
    words = ("--student", student.path, "--image-size", 64)
    assert "--student must go without --init-from, --image-size" in run_cli.fails(*like, *words)
    both = run_cli.fails(*like, "--student", student.path, "--backbone", TINY)
    assert "got --backbone and --student" in both
