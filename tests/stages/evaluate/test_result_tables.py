import csv
import io
import json
from copy import deepcopy
from typing import Any

import pytest

from stages.evaluate.result_tables import metrics_table, result_lines

FINGERPRINT = "0123456789abcdef"
COMMON: dict[str, Any] = {"rejected": 1, "first_rejected": "b.jpg: no image"}


def interval(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "num_pictures": 40}


def retrieval(scale: float = 1.0) -> dict[str, Any]:
    metrics = {
        "text_to_image/recall@1": 12.5 * scale,
        "text_to_image/recall@10": 60.0 * scale,
        "text_to_image/recall@5": 1 / 3 * scale,
        "image_to_text/recall@1": 10.0 * scale,
        "mean_recall": 33.0 * scale,
        "text_to_image/median_rank": 4.5,
    }
    intervals = {"text_to_image/recall@1": interval(10.0, 15.0)}
    sizes = {"num_images": 40, "num_captions": 200}
    return {
        "name": "test",
        "task": "retrieval",
        **sizes,
        **COMMON,
        "metrics": metrics,
        "intervals": intervals,
        "chance": {},
    }


def classified(task: str, name: str = "pets", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "task": task,
        "num_images": 40,
        **COMMON,
        "metrics": {"top1": 50.0, "mean_per_class": 25.0},
        "intervals": {"top1": interval(40.0, 60.0)},
        "chance": {"top1": 10.0, "mean_per_class": 10.0},
        **more,
    }


def evaluation(**entries: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Return a report of these checkpoints, and their entries."""
    checkpoints = [
        {
            "name": name,
            "epoch": int(name.removeprefix("epoch_")) if name.startswith("epoch_") else None,
            "metrics": {
                "/".join([entry["name"], *([entry["task"]] if entry["task"] != "retrieval" else []), measure]): value
                for entry in found
                for measure, value in entry["metrics"].items()
            },
        }
        for name, found in entries.items()
    ]
    student = {"fingerprint": FINGERPRINT, "checkpoint": "last", "backbone": "resnet18"}
    return {"student": student, "checkpoints": checkpoints}, entries


def read_table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def read_lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_metrics_table__has_a_row_a_checkpoint_with_every_metric_and_interval() -> None:
    report, entries = evaluation(epoch_1=[retrieval(0.5), classified("knn")], last=[retrieval(), classified("knn")])
    rows = read_table(metrics_table(report, entries))
    assert [(row["checkpoint"], row["epoch"]) for row in rows] == [("epoch_1", "1"), ("last", "")]
    for row, checkpoint in zip(rows, report["checkpoints"], strict=True):
        assert {name: float(row[name]) for name in checkpoint["metrics"]} == checkpoint["metrics"]
        assert (float(row["test/text_to_image/recall@1/low"]), float(row["pets/knn/top1/high"])) == (10.0, 60.0)


def test_metrics_table__orders_its_columns_by_name_with_intervals_last() -> None:
    report, entries = evaluation(last=[retrieval(), classified("knn")])
    assert list(read_table(metrics_table(report, entries))[0]) == [
        "checkpoint",
        "epoch",
        "pets/knn/mean_per_class",
        "pets/knn/top1",
        "test/image_to_text/recall@1",
        "test/mean_recall",
        "test/text_to_image/median_rank",
        "test/text_to_image/recall@1",
        "test/text_to_image/recall@5",
        "test/text_to_image/recall@10",
        "pets/knn/top1/low",
        "pets/knn/top1/high",
        "test/text_to_image/recall@1/low",
        "test/text_to_image/recall@1/high",
    ]


def test_metrics_table__is_empty_where_a_task_failed() -> None:
    report, entries = evaluation(epoch_1=[classified("knn")], epoch_2=[], last=[retrieval()])
    first, second, last = read_table(metrics_table(report, entries))
    assert (first["pets/knn/top1"], first["pets/knn/top1/low"], first["test/mean_recall"]) == ("50.0", "40.0", "")
    assert set(second.values()) == {"epoch_2", "2", ""}
    assert (last["pets/knn/top1"], last["pets/knn/top1/high"], last["test/mean_recall"]) == ("", "", "33.0")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_metrics_table__keeps_names_from_being_formulas(start: str) -> None:
    report, entries = evaluation(**{f"{start}A1": [classified("knn", name=f"{start}cmd", metrics={"top1": -5.0})]})
    [row] = read_table(metrics_table(report, entries))
    assert row["checkpoint"] == f"'{start}A1"
    assert row[f"'{start}cmd/knn/top1"] == "-5.0"
    assert f"'{start}cmd/knn/top1/low" in row


def test_metrics_table__holds_names_that_need_quotes_or_are_no_utf8() -> None:
    report, entries = evaluation(last=[classified("knn", name='a,"b"\r\n\udcff')])
    [row] = read_table(metrics_table(report, entries))
    assert row['a,"b"\r\n\\udcff/knn/top1'] == "50.0"


def test_tables__do_not_depend_on_the_order_of_keys() -> None:
    report, entries = evaluation(last=[retrieval(), classified("knn", k=20)])
    turned_report, turned = json.loads(json.dumps([report, entries], sort_keys=True))
    turned["last"] = [dict(reversed(entry.items())) for entry in turned["last"]]
    for make in (metrics_table, result_lines):
        assert make(turned_report, turned) == make(report, entries)


def test_tables__leave_what_they_are_given_alone() -> None:
    arguments = evaluation(last=[retrieval(), classified("sts")])
    before = deepcopy(arguments)
    metrics_table(*arguments)
    result_lines(*arguments)
    assert arguments == before


def test_result_lines__are_those_of_clip_benchmark() -> None:
    """The keys that its command ``build`` reads, and the measures that its three tasks write."""
    found = [retrieval(), classified("zero_shot"), classified("linear_probe")]
    found[1]["metrics"]["top5"] = 90.0
    lines = read_lines(result_lines(*evaluation(last=found)))
    for line in lines:
        assert line.keys() == {"dataset", "model", "pretrained", "task", "metrics", "language", "protorkd"}
        assert (line["model"], line["pretrained"], line["language"]) == ("resnet18", "0123456789ab@last", "en")
    assert [(line["dataset"], line["task"]) for line in lines] == [
        ("test", "zeroshot_retrieval"),
        ("pets", "zeroshot_classification"),
        ("pets", "linear_probe"),
    ]
    assert lines[0]["metrics"] == pytest.approx(
        {
            "image_retrieval_recall@1": 0.125,
            "image_retrieval_recall@5": 1 / 300,
            "image_retrieval_recall@10": 0.6,
            "text_retrieval_recall@1": 0.1,
        }
    )
    assert lines[1]["metrics"] == {"acc1": 0.5, "acc5": 0.9, "mean_per_class_recall": 0.25}
    assert lines[2]["metrics"] == {"lp_acc1": 0.5, "lp_mean_per_class_recall": 0.25}


def test_result_lines__make_the_table_that_clip_benchmark_builds() -> None:
    """What ``clip_benchmark build`` does with a result file: measures and keys side by side in one row."""
    for line in read_lines(result_lines(*evaluation(last=[retrieval(), classified("knn"), classified("zero_shot")]))):
        row = {**line["metrics"], **line}
        del row["metrics"]
        assert row["model"] + " " + row["pretrained"] == "resnet18 0123456789ab@last"
        assert not line["metrics"].keys() & line.keys()


def test_result_lines__tell_ours_apart() -> None:
    analysis = {**classified("geometry"), "metrics": {"modality_gap": 0.7, "effective_rank": 31.0}, "intervals": {}}
    lines = read_lines(
        result_lines(*evaluation(last=[analysis, classified("knn_backbone"), classified("linear_probe_backbone")]))
    )
    assert [line["task"] for line in lines] == ["geometry", "knn_backbone", "linear_probe_backbone"]
    assert [line["metrics"] for line in lines] == [
        {"modality_gap": 0.7, "effective_rank": 31.0},
        {"acc1": 0.5, "mean_per_class_recall": 0.25},
        {"lp_acc1": 0.5, "lp_mean_per_class_recall": 0.25},
    ]


def test_result_lines__say_the_rest_under_a_key_of_their_own() -> None:
    entry = classified("knn", num_train_images=160, k=20, temperature=0.07)
    first, last = read_lines(result_lines(*evaluation(epoch_3=[entry], last=[entry])))
    assert first["protorkd"] == {
        "student": FINGERPRINT,
        "checkpoint": "epoch_3",
        "epoch": 3,
        "task": "knn",
        "num_images": 40,
        "num_train_images": 160,
        "rejected": 1,
        "metrics": {"pets/knn/top1": 50.0, "pets/knn/mean_per_class": 25.0},
        "intervals": {"pets/knn/top1": interval(40.0, 60.0)},
        "chance": {"pets/knn/top1": 10.0, "pets/knn/mean_per_class": 10.0},
        "settings": {"k": 20, "temperature": 0.07},
    }
    assert (last["protorkd"]["checkpoint"], last["protorkd"]["epoch"]) == ("last", None)


def test_result_lines__hold_an_entry_without_images() -> None:
    pairs = {"name": "stsb", "task": "sts", "num_pairs": 9, "rejected": 0, "metrics": {"spearman": 0.8}}
    [line] = read_lines(result_lines(*evaluation(last=[{**pairs, "intervals": {}, "chance": {}}])))
    assert (line["metrics"], line["protorkd"]["num_pairs"]) == ({"spearman": 0.8}, 9)
    assert line["protorkd"]["metrics"] == {"stsb/sts/spearman": 0.8}
