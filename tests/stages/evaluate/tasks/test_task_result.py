from data_schemas.manifest import Rejection
from stages.evaluate.statistics.bootstrap import Interval
from stages.evaluate.tasks.task_result import TaskResult, as_json, rejected


def test_measured__has_flat_names() -> None:
    knn = TaskResult({"name": "pets", "task": "knn_backbone", "metrics": {"top1": 50.0}})
    assert (knn.prefix, knn.flat(), knn.outcomes) == ("pets/knn_backbone", {"pets/knn_backbone/top1": 50.0}, ())
    found = TaskResult({"name": "coco", "task": "retrieval", "metrics": {"text_to_image/recall@1": 1.0}})
    assert found.flat() == {"coco/text_to_image/recall@1": 1.0}


def test_rejected__counts_and_gives_the_first_reason() -> None:
    assert rejected() == {"rejected": 0, "first_rejected": ""}
    rows = [Rejection(row=3, reason="truncated", value="a.jpg"), Rejection(row=4, reason="absent", value="b.jpg")]
    assert rejected(*rows) == {"rejected": 2, "first_rejected": "a.jpg: truncated"}


def test_as_json__writes_low_high_and_number() -> None:
    assert as_json({"top1": Interval(1.0, 2.0, 3)}) == {"top1": {"low": 1.0, "high": 2.0, "num_pictures": 3}}
