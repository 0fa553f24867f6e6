"""embed --calibrate: one more number a row, known to its readers."""

from pathlib import Path

import numpy as np
import pytest
from backbones import make_tiny_backbone
from features import make_features
from frozen_students import make_frozen_student
from workbench import DISTILL, Cli, Pairs

from data_schemas.calibration import NONE, Calibration
from data_schemas.embedding_array import IMAGE_KIND, EmbeddingArray
from data_schemas.images.embedded_images import EmbedConfig
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages import STAGES
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.calibration.extended_vectors import extend_images
from stages.components.student.checkpoints import find_checkpoint

EMBED = ("embed", "--device", "cpu", "--precision", "fp32", "--workers", 0, "--embedding-dtype", "float32")


def rows_of(path: str) -> np.ndarray:
    array = EmbeddingArray.open(Path(path), kind=IMAGE_KIND)
    return array.read(0, array.rows)


def calibration_of(store: Path, kind: str) -> Calibration:
    opened = Store(store)
    source = identify_calibration(find_checkpoint(None, store=opened), kind).value
    return make_calibration(source, CalibrationRuntime("cpu"), context_of(opened, stages=STAGES))[0]


@pytest.mark.parametrize("kind", ["query-bank", "mixed"])
def test_embed__writes_the_calibration_behind_unit_rows(kind: str, encoded: Pairs, run_cli: Cli, store: Path) -> None:
    run_cli(*DISTILL)
    asked = (*EMBED, "--manifest", encoded.manifest)
    raw, found = run_cli(*asked), run_cli(*asked, "--calibrate", kind)
    assert found["fingerprint"] != raw["fingerprint"]
    unit = rows_of(raw["path"])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(rows_of(found["path"]), extend_images(unit, calibration_of(store, kind)), atol=1e-5)
    configs = [EmbedConfig.read(Path(each["path"])).calibration for each in (raw, found)]
    assert configs == [NONE, kind]
    assert "calibration" not in (Path(raw["path"]) / "embed.json").read_text()
    assert run_cli(*asked, "--calibrate", kind)["status"] == "unchanged"
    again = run_cli(*asked, "--calibrate", kind, "--shard-rows", 256)
    assert again["counts"]["reused_images"] == len(encoded.images)  # of the calibrated rows, not of the raw ones
    assert np.array_equal(rows_of(again["path"]), rows_of(found["path"]))
    [calibration] = Store(store).artifacts("calibration")
    record = Store(store).find("embed", found["fingerprint"])
    assert record is not None
    assert calibration.record.digest in record.record.uses


def test_embed__of_a_frozen_backbone_calibrates_what_the_head_gives(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    opened = Store(store)
    backbone = make_tiny_backbone(opened)
    wide = rows_of_features(run_cli, encoded, make_frozen_student(opened, backbone).path)
    values = np.random.default_rng(0).normal(size=(len(encoded.images), wide)).astype(np.float32)
    features = make_features(opened, encoded.images, values)
    student = make_frozen_student(opened, backbone, features=features)
    asked = (*EMBED, "--manifest", encoded.manifest, "--student", student.path)
    unit = rows_of(run_cli(*asked, "--normalize")["path"])
    found = rows_of(run_cli(*asked, "--calibrate", "mixed")["path"])
    np.testing.assert_allclose(found, extend_images(unit, calibration_of(store, "mixed")), atol=1e-5)


def rows_of_features(run_cli: Cli, encoded: Pairs, student: Path) -> int:
    """Have encode-images compute the features of the backbone of a student, and return their width."""
    asked = ("encode-images", "--manifest", encoded.manifest, "--student", student, "--device", "cpu", "--workers", 0)
    found = run_cli(*asked)
    return EmbeddingArray.open(Path(found["path"]), kind="protorkd image features").dim
