"""Calibrations as artifacts: of the training data, made once, and clear where those are gone."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from backbones import make_tiny_backbone
from features import make_features
from frozen_students import make_frozen_student
from workbench import DISTILL, Cli, Pairs

import protorkd
from data_schemas.calibration import MIXED, QUERY_BANK, MixedScores, QueryBank
from data_schemas.errors import ProtoRKDError
from pipeline.runner import context_of
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store
from stages import STAGES
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.calibration.fit import mixed_scores, unit_vectors
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.head_on_features import embed_features

FEATURE_DIM = 8  # of `make_frozen_student` without a backbone


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.fixture
def context(opened: Store) -> Context:
    return context_of(opened, stages=STAGES)


@pytest.fixture
def features(opened: Store, encoded: Pairs) -> Artifact:
    """Features of the training's images, two rows each."""
    values = np.random.default_rng(0).normal(size=(2 * len(encoded.images), FEATURE_DIM)).astype(np.float32)
    return make_features(opened, encoded.images, values, views=2)


@pytest.fixture
def student(opened: Store, features: Artifact) -> Artifact:
    return make_frozen_student(opened, None, features=features)


def calibrate(kind: str, context: Context, *, reference: Artifact | None = None) -> QueryBank | MixedScores:
    student = find_checkpoint(None if reference is None else str(reference.path), store=context.store)
    return make_calibration(identify_calibration(student, kind).value, CalibrationRuntime("cpu"), context)[0]


def captions_of(store: Store) -> np.ndarray:
    return unit_vectors(protorkd.load_embeddings(store=store.root).embeddings[:])


def test_query_bank__holds_the_captions_of_the_training(student: Artifact, context: Context, opened: Store) -> None:
    bank = calibrate(QUERY_BANK, context)
    assert isinstance(bank, QueryBank)
    np.testing.assert_allclose(bank.captions, captions_of(opened), atol=1e-3)


def test_mixed__measures_what_the_head_makes_of_plain_features(
    student: Artifact, features: Artifact, context: Context, opened: Store
) -> None:
    scores = calibrate(MIXED, context)
    table = np.random.default_rng(0).normal(size=(48, FEATURE_DIM)).astype(np.float32)[::2]  # view 0 of each image
    found = find_checkpoint(str(student.path), store=opened)
    images = embed_features(found, torch.from_numpy(table), device=torch.device("cpu")).numpy()
    wanted = mixed_scores(captions_of(opened), unit_vectors(images))
    for name, levels in vars(wanted).items():
        assert vars(vars(scores)[name]) == pytest.approx(vars(levels), abs=1e-6)


def test_mixed__of_a_student_of_images_opens_them(encoded: Pairs, run_cli: Cli, context: Context) -> None:
    run_cli(*DISTILL)
    scores = calibrate(MIXED, context)
    paths = [encoded.root / name for name in encoded.images]
    images = protorkd.load_student(store=context.store.root, device="cpu").encode(paths)
    wanted = mixed_scores(captions_of(context.store), unit_vectors(images))
    assert isinstance(scores, MixedScores)
    assert scores.caption_to_image.mean == pytest.approx(wanted.caption_to_image.mean, abs=1e-4)
    assert scores.image_to_image.nearest == pytest.approx(wanted.image_to_image.nearest, abs=1e-4)


@pytest.mark.parametrize("kind", [QUERY_BANK, MIXED])
def test_calibration__is_made_once_and_outlives_the_training_data(
    kind: str, student: Artifact, features: Artifact, context: Context, opened: Store
) -> None:
    first = calibrate(kind, context)
    [artifact] = opened.artifacts("calibration")
    shutil.rmtree(features.path)
    shutil.rmtree(opened.root / "encode-teacher")
    again = calibrate(kind, replace(context, force=True))
    assert [each.path for each in opened.artifacts("calibration")] == [artifact.path]
    np.testing.assert_equal(vars(again), vars(first))


def test_query_bank__is_shared_by_all_students_of_the_same_captions(
    opened: Store, features: Artifact, student: Artifact, context: Context
) -> None:
    calibrate(QUERY_BANK, context, reference=student)
    calibrate(MIXED, context, reference=student)
    other = make_frozen_student(opened, None, features=features, seed=1)
    calibrate(QUERY_BANK, context, reference=other)
    assert len(opened.artifacts("calibration")) == 2
    calibrate(MIXED, context, reference=other)
    assert len(opened.artifacts("calibration")) == 3


@pytest.mark.parametrize(("stage", "kind"), [("encode-teacher", QUERY_BANK), ("encode-images", MIXED)])
def test_calibration__says_which_training_data_are_gone(
    stage: str, kind: str, student: Artifact, context: Context, opened: Store
) -> None:
    shutil.rmtree(opened.root / stage)
    with pytest.raises(ProtoRKDError, match=rf"no artifact of {stage} with the digest .* Run {stage} again"):
        calibrate(kind, context)


def test_mixed__says_that_images_are_gone(tmp_path: Path, encoded: Pairs, run_cli: Cli, context: Context) -> None:
    moved = shutil.copytree(encoded.root, tmp_path / "moved")
    run_cli(*DISTILL, "--image-root", moved)
    shutil.rmtree(moved)
    with pytest.raises(ProtoRKDError, match=r"moved is gone.*or calibrate by query-bank, which needs none"):
        calibrate(MIXED, context)
    calibrate(QUERY_BANK, context)


def test_calibration__refuses_a_student_of_another_width(encoded: Pairs, run_cli: Cli, context: Context) -> None:
    run_cli(*DISTILL, "--projection-dim", 8, "--loss", "rkd=1")
    with pytest.raises(ProtoRKDError, match=r"as wide as its teacher; got 8 and 16"):
        calibrate(QUERY_BANK, context)


def test_calibration__refuses_a_damaged_bank(student: Artifact, context: Context, opened: Store) -> None:
    calibrate(QUERY_BANK, context)
    [artifact] = opened.artifacts("calibration")
    path = artifact.path / "query_bank.safetensors"
    safetensors.torch.save_file({"query_bank": torch.ones(24, 16, dtype=torch.float16)}, path)
    with pytest.raises(ProtoRKDError, match="Run calibration again"):
        calibrate(QUERY_BANK, context)


def test_mixed__of_a_frozen_backbone_needs_the_features_that_its_head_learned_from(
    opened: Store, encoded: Pairs, context: Context
) -> None:
    backbone = make_tiny_backbone(opened)
    student = make_frozen_student(opened, backbone)  # its record names features that the store does not have
    with pytest.raises(ProtoRKDError, match="no artifact of encode-images"):
        calibrate(MIXED, context, reference=student)
