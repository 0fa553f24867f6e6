"""evaluate --calibrate: more tasks beside those that there were, which stay as they are."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from features import make_features
from frozen_students import make_frozen_student
from workbench import Cli, Pairs

from data_schemas.evaluation_report import read_report
from pipeline.store.store import Store

EVALUATE = ("evaluate", "--device", "cpu", "--num-resamples", 100, "--no-overlap", "--workers", 0)
BOTH = ("--calibrate", "query-bank", "--calibrate", "mixed")


@pytest.fixture
def vectors(encoded: Pairs, store: Path, tmp_path: Path) -> Path:
    """Vectors of the images by another tool, and a student of such; return their file."""
    values = np.random.default_rng(0).normal(size=(len(encoded.images), 8)).astype(np.float32)
    make_frozen_student(Store(store), None, features=make_features(store, encoded.images, values))
    path = tmp_path / "vectors.parquet"
    column = pa.array([list(row) for row in values], pa.list_(pa.float32()))
    pq.write_table(pa.table({"image": list(encoded.images), "embedding": column}), path)
    return path


def test_evaluate__reports_raw_and_calibrated_retrieval(vectors: Path, encoded: Pairs, run_cli: Cli) -> None:
    asked = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", vectors)
    raw = run_cli(*asked)
    found = run_cli(*asked, *BOTH)
    assert {name: found["metrics"][name] for name in raw["metrics"]} == raw["metrics"]
    more = found["metrics"].keys() - raw["metrics"].keys()
    assert {"pairs/query_bank/text_to_image/recall@1", "pairs/mixed/calibrated/own_image@10"} <= more
    assert all(name.startswith(("pairs/query_bank/", "pairs/mixed/")) for name in more)
    report = read_report(Path(found["path"]))
    [mixed] = [entry for entry in report["sets"] if entry["task"] == "mixed"]
    assert mixed["intervals"].keys() == mixed["metrics"].keys()
    page = (Path(found["path"]) / "report.html").read_text()
    assert "calibrated by a query bank" in page
    assert "Images and captions in one index" in page
    assert run_cli(*asked, *BOTH)["status"] == "unchanged"
    assert run_cli(*asked)["status"] == "unchanged"


def test_evaluate__of_calibrations_that_were_made_needs_no_training_data(
    vectors: Path, encoded: Pairs, run_cli: Cli, store: Path
) -> None:
    asked = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", vectors, "--task", "retrieval")
    run_cli(*asked, *BOTH)
    teacher = Store(store).newest("encode-teacher")
    assert teacher is not None
    named = ("--teacher", teacher.record.inputs["teacher"].location)
    shutil.rmtree(store / "encode-images")
    shutil.rmtree(store / "encode-teacher")
    assert run_cli(*asked, *named, *BOTH, "--seed", 1)["status"] == "created"


def test_evaluate__refuses_calibration_without_retrieval(vectors: Path, encoded: Pairs, run_cli: Cli) -> None:
    asked = (*EVALUATE, "--retrieval", encoded.manifest, "--task", "analysis", *BOTH)
    assert "--calibrate must go with --retrieval" in run_cli.fails(*asked)


def test_evaluate__refuses_calibration_of_a_run_that_goes_on(vectors: Path, encoded: Pairs, run_cli: Cli) -> None:
    asked = (*EVALUATE, "--retrieval", encoded.manifest, "--watch", "--checkpoints", "all", *BOTH)
    assert "--watch must go without --calibrate" in run_cli.fails(*asked)
