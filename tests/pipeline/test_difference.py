import pytest
from toy_stage import ToyParams

from pipeline.difference import Difference, differences, nearest
from pipeline.stage import Input


@pytest.fixture
def record(toy):
    return toy.run(scale=2.0).artifact.record


@pytest.fixture
def source(record):
    return {"source": Input(digest=record.inputs["source"].digest, location="/new/place", value=None)}


def test_differences__are_none_for_the_same_request_from_another_place(record, source):
    assert differences(record, version=1, params=ToyParams(scale=2.0), inputs=source) == []


def test_differences__name_flag_and_both_values(record, source):
    found = differences(record, version=1, params=ToyParams(scale=0.5, word="x"), inputs=source)
    assert found == [Difference("--scale", "2.0", "0.5"), Difference("--word", "(none)", "x")]
    assert str(found[0]) == "--scale: 2.0 -> 0.5"


def test_differences__name_the_stage_version(record, source):
    found = differences(record, version=2, params=ToyParams(scale=2.0), inputs=source)
    assert list(map(str, found)) == ["stage version: 1 -> 2"]


def test_differences__name_parameters_that_came_or_went(record, source):
    found = differences(record, version=1, params={"scale": 2.0, "num_parts": 3, "flip": [1, 2]}, inputs=source)
    assert list(map(str, found)) == ["--flip: (absent) -> 1, 2", "--word: (none) -> (absent)"]


def test_differences__name_an_input_by_its_new_place(record):
    found = differences(
        record, version=1, params=ToyParams(scale=2.0), inputs={"source": Input("0" * 64, "/new", value=None)}
    )
    assert found == [Difference("source (/new)", record.inputs["source"].digest[:12], "0" * 12)]


def test_differences__name_the_parts_of_an_input_that_changed(record):
    record.inputs["source"].parts.update(weights="1" * 64, pooling="2" * 64)
    now = Input("0" * 64, parts={"weights": "3" * 64, "pooling": "2" * 64, "prompt": "4" * 64}, value=None)
    found = differences(record, version=1, params=ToyParams(scale=2.0), inputs={"source": now})
    assert list(map(str, found)) == [
        f"source prompt: (absent) -> {'4' * 12}",
        f"source weights: {'1' * 12} -> {'3' * 12}",
    ]


def test_differences__name_inputs_that_came_or_went(record):
    found = differences(record, version=1, params=ToyParams(scale=2.0), inputs={"other": Input("0" * 64, value=None)})
    old = record.inputs["source"].digest[:12]
    assert list(map(str, found)) == [f"other: (absent) -> {'0' * 12}", f"source: {old} -> (absent)"]


def test_nearest__differs_in_the_fewest_fields_and_then_is_the_newest(toy):
    records = [
        toy.run(**params).artifact.record
        for params in ({"scale": 2.0}, {"scale": 3.0}, {"scale": 4.0, "num_parts": 1, "word": "x"})
    ]
    inputs = {"source": Input(digest=records[0].inputs["source"].digest, value=None)}
    record, found = nearest(records, version=1, params=ToyParams(scale=9.0), inputs=inputs)
    assert record == records[1]
    assert list(map(str, found)) == ["--scale: 3.0 -> 9.0"]
    assert nearest([], version=1, params=ToyParams(), inputs=inputs) is None
