import json
from pathlib import Path
from typing import Any

import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.evaluation_report import SCHEMA_VERSION, metric_prefix, read_report, write_report

IMAGES: dict[str, Any] = {
    "name": "pets",
    "task": "zero_shot",
    "num_images": 40,
    "rejected": 0,
    "first_rejected": "",
    "metrics": {"top1": 50.0},
    "intervals": {"top1": {"low": 40.0, "high": 60.0, "num_pictures": 40}},
    "chance": {"top1": 10.0},
}
CAPTIONS: dict[str, Any] = {
    "name": "stsb",
    "task": "sts",
    "num_pairs": 1379,
    "rejected": 0,
    "metrics": {"spearman": 0.8},
    "intervals": {},
    "chance": {},
}
METRICS = {"pets/zero_shot/top1": 50.0, "stsb/sts/spearman": 0.8}
OVERLAP = {"num_evaluation": 40, "num_training": 900, "num_exact": 1, "num_near": 0, "num_featureless": 2}
PAIR = {"evaluation": "a.jpg", "training": "b.jpg", "exact": True, "distance": 0}
REPORT: dict[str, Any] = {
    "student": {"fingerprint": "ab12", "checkpoint": "last", "backbone": "resnet18"},
    "teacher": {"name": "minilm"},
    "sets": [IMAGES, CAPTIONS],
    "metrics": METRICS,
    "checkpoints": [
        {"name": "epoch_1", "epoch": 1, "metrics": {}},
        {"name": "last", "epoch": None, "metrics": METRICS},
    ],
    "failures": [{"name": "pets", "task": "zero_shot", "checkpoint": "epoch_1", "reason": "a.jpg must be an image."}],
    "absent": [{"name": "dtd", "places": ["/data/dtd"], "reason": "no such folder"}],
    "overlap": [{"name": "pets", **OVERLAP, "pairs": [PAIR]}],
}
FIRST_VERSION: dict[str, Any] = {
    "schema_version": 1,
    "student": {"fingerprint": "ab12", "backbone": "resnet18"},
    "teacher": {"name": "minilm"},
    "sets": [{key: value for key, value in IMAGES.items() if key != "intervals"}],
    "metrics": {"pets/zero_shot/top1": 50.0},
}


def write_raw(root: Path, content: object) -> Path:
    (root / "report.json").write_text(json.dumps(content))
    return root


def test_report__reads_as_it_was_written(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    assert read_report(tmp_path) == {"schema_version": SCHEMA_VERSION, **REPORT}


def test_report__of_version_1_gets_the_keys_that_it_lacks(tmp_path: Path) -> None:
    assert read_report(write_raw(tmp_path, FIRST_VERSION)) == {
        "schema_version": 2,
        "student": {"fingerprint": "ab12", "checkpoint": "last", "backbone": "resnet18"},
        "teacher": {"name": "minilm"},
        "sets": [{**IMAGES, "intervals": {}}],
        "metrics": {"pets/zero_shot/top1": 50.0},
        "checkpoints": [{"name": "last", "epoch": None, "metrics": {"pets/zero_shot/top1": 50.0}}],
        "failures": [],
        "absent": [],
        "overlap": [],
    }


@pytest.mark.parametrize("key", REPORT)
def test_report__must_have_every_key(tmp_path: Path, key: str) -> None:
    write_report(tmp_path, {name: value for name, value in REPORT.items() if name != key})
    with pytest.raises(ProtoRKDError, match=rf"report\.json: {key} must be an? \w+; got nothing\. Run evaluate again"):
        read_report(tmp_path)


@pytest.mark.parametrize("key", ["name", "task", "rejected", "metrics", "intervals", "chance"])
def test_entry__must_have_every_key(tmp_path: Path, key: str) -> None:
    entry = {name: value for name, value in IMAGES.items() if name != key}
    write_report(tmp_path, {**REPORT, "sets": [CAPTIONS, entry]})
    with pytest.raises(ProtoRKDError, match=r"sets\[1\] must have \['chance', .*\]; got \[") as caught:
        read_report(tmp_path)
    assert repr(key) not in str(caught.value).partition("got")[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sets": [{k: v for k, v in CAPTIONS.items() if k != "num_pairs"}]},
            r"sets\[0\] must have one of num_images, ",
        ),
        ({"sets": {}}, r"sets must be a list; got \{\}"),
        ({"sets": ["pets"]}, r"sets\[0\] must have .*; got 'pets'\."),
        ({"sets": [{**IMAGES, "metrics": 3}]}, r"sets\[0\]\.metrics must be an object; got 3"),
        ({"metrics": None}, "metrics must be an object; got None"),
        ({"student": {"fingerprint": "ab12"}}, r"student must have \['backbone', .*; got \['fingerprint'\]"),
        ({"teacher": {}}, r"teacher must have \['name'\]; got \[\]"),
        ({"checkpoints": [{"name": "last", "metrics": {}}]}, r"checkpoints\[0\] must have .*'epoch'"),
        ({"failures": [{"name": "pets"}]}, r"failures\[0\] must have .*'reason'"),
        ({"absent": [{"name": "dtd"}]}, r"absent\[0\] must have .*'places'"),
        ({"overlap": [{"name": "pets", **OVERLAP}]}, r"overlap\[0\] must have .*'pairs'"),
    ],
)
def test_report__names_the_place_of_what_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_report(tmp_path, {**REPORT, **changes})
    with pytest.raises(ProtoRKDError, match=message):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it has no schema_version"),
        ({"metrics": {}}, "it has no schema_version"),
        ({**REPORT, "schema_version": 3}, r"version 2 or older; got 3\. Use a newer protorkd"),
        ({"schema_version": 1}, "student must be an object; got nothing"),
        ({**FIRST_VERSION, "sets": ["pets"]}, r"sets\[0\] must have"),
        ({**FIRST_VERSION, "student": "ab12"}, "student must be an object; got 'ab12'"),
    ],
)
def test_report__of_another_kind_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        read_report(write_raw(tmp_path, content))


def test_metric_prefix__is_the_set_alone_for_retrieval() -> None:
    assert metric_prefix({"name": "coco", "task": "retrieval"}) == "coco"
    assert metric_prefix(CAPTIONS) == "stsb/sts"
