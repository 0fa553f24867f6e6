from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from data_schemas.calibration import (
    BANK_NAME,
    CONFIG_NAME,
    MixedScores,
    QueryBank,
    ScoreLevels,
    ScoreMap,
    read_calibration,
)
from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json

SCORES = MixedScores(ScoreLevels(0.1, 0.15), ScoreLevels(0.2, 0.3), ScoreLevels(0.3, 0.5), ScoreLevels(0.15, 0.2))


def unit(num: int, dim: int = 8) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_query_bank__comes_back_as_written_to_half_precision(tmp_path: Path) -> None:
    bank = QueryBank(unit(5), 0.05)
    bank.write(tmp_path)
    found = read_calibration(tmp_path)
    assert isinstance(found, QueryBank)
    assert (found.temperature, found.captions.dtype) == (0.05, np.float32)
    np.testing.assert_allclose(found.captions, bank.captions, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.captions, axis=1), 1, atol=1e-6)


def test_mixed_scores__come_back_as_written(tmp_path: Path) -> None:
    SCORES.write(tmp_path)
    assert vars(read_calibration(tmp_path)) == vars(SCORES)


def test_map_images__puts_images_on_the_scale_of_captions() -> None:
    by_text, by_image = SCORES.map_images("text"), SCORES.map_images("picture")
    for found, images, captions in ((by_text, (0.1, 0.15), (0.2, 0.3)), (by_image, (0.3, 0.5), (0.15, 0.2))):
        assert [found.slope * level + found.offset for level in images] == pytest.approx(captions)
    assert ScoreMap() == ScoreMap(1.0, 0.0)


@pytest.mark.parametrize(
    "values",
    [{"kind": "mixed"}, {"kind": "mixed", "caption_to_image": [1]}, {"kind": "query-bank"}, {}, {"kind": "other"}],
)
def test_read_calibration__refuses_what_is_none(values: dict[str, object], tmp_path: Path) -> None:
    QueryBank(unit(2), 0.05).write(tmp_path)
    write_json(tmp_path / CONFIG_NAME, {"schema_version": 1, **values})
    with pytest.raises(ProtoRKDError, match=r"calibration.json must hold a calibration"):
        read_calibration(tmp_path)


def test_read_calibration__refuses_a_newer_schema(tmp_path: Path) -> None:
    SCORES.write(tmp_path)
    write_json(tmp_path / CONFIG_NAME, read_json(tmp_path / CONFIG_NAME) | {"schema_version": 2})
    with pytest.raises(ProtoRKDError, match="version 1 or older"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.zeros((0, 3))])
def test_read_calibration__refuses_a_bank_without_directions(rows: np.ndarray, tmp_path: Path) -> None:
    QueryBank(unit(2), 0.05).write(tmp_path)
    (tmp_path / BANK_NAME).write_bytes(safetensors.numpy.save({"query_bank": rows.astype(np.float16)}))
    with pytest.raises(ProtoRKDError, match="unit length"):
        read_calibration(tmp_path)


def test_read_calibration__refuses_a_missing_bank(tmp_path: Path) -> None:
    QueryBank(unit(2), 0.05).write(tmp_path)
    (tmp_path / BANK_NAME).unlink()
    with pytest.raises(ProtoRKDError, match="must hold the query bank"):
        read_calibration(tmp_path)
