"""Sets are downloaded by torchvision when asked, and the others say where they are to be had."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.datasets import KNOWN_SETS, download
from stages.evaluate.sets.datasets.downloading import DATASET_CLASSES, ELSEWHERE


def test_download__asks_torchvision_for_all_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    module = ModuleType("torchvision.datasets")
    module.GTSRB = lambda **options: calls.append(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    download("gtsrb", tmp_path / "data")
    common = {"root": str(tmp_path / "data"), "download": True}
    assert calls == [{**common, "split": "train"}, {**common, "split": "test"}]


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("File not found or corrupted.")])
def test_download__says_what_went_wrong(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise error

    module = ModuleType("torchvision.datasets")
    module.DTD = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    with pytest.raises(ProtoRKDError, match=f"dtd must be within reach .*; {error}"):
        download("dtd", tmp_path)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_download__says_where_other_sets_are_to_be_had(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=f"got '{name}'.* https?://|torchvision has its videos alone"):
        download(name, tmp_path)


def test_download__covers_the_catalogue() -> None:
    datasets = importlib.import_module("torchvision.datasets")
    assert {*DATASET_CLASSES, *ELSEWHERE} == set(KNOWN_SETS)
    assert all(hasattr(datasets, class_name) for class_name, _ in DATASET_CLASSES.values())
