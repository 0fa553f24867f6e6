"""Several devices, played by processes on the CPU, with a teacher each: what they give, and what one of them meets."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from workbench import counted_captions

from stages.components.teacher.identity import find_teacher
from stages.components.teacher.teacher import Teacher

CAPTIONS = [*counted_captions(300), "", "red circle " * 40]


@pytest.fixture(scope="module")
def options(bert_folder: Path) -> dict[str, Any]:
    return {"source": find_teacher(str(bert_folder)), "precision": "bf16", "sample": CAPTIONS[:20], "truncate_dim": 7}


@pytest.fixture(scope="module")
def shared(options: dict[str, Any]) -> Iterator[Teacher]:
    with Teacher(**options, devices=["cpu", "cpu"]) as teacher:
        yield teacher
    assert not multiprocessing.active_children()


def test_devices__change_nothing_but_who_does_what(shared: Teacher, options: dict[str, Any]) -> None:
    alone = Teacher(**options)
    assert shared.nearness == alone.nearness
    assert shared.nearness["fp32_cosine_captions"] == 20
    told: list[int] = []
    parts = [CAPTIONS[:100], CAPTIONS[100:], CAPTIONS[:5]]
    asked = [
        shared.start(shared.tokenize(pa.array(part), batch_tokens=50), advance=told.append) for part in parts
    ]  # all of them before any is waited for
    for part, collect in zip(parts, asked, strict=True):
        np.testing.assert_array_equal(collect(), alone.encode(part, batch_tokens=50))
    assert sum(told) == len(CAPTIONS) + 5
    assert len(told) > 20
    assert shared.embed([]).shape == (0, 7)


def test_devices__hold_the_weights_and_this_process_none(shared: Teacher) -> None:
    batcher: Any = shared._batcher
    assert {parameter.device.type for parameter in batcher._tokenize._model.parameters()} == {"meta"}


def test_devices__pass_on_what_one_of_them_meets(shared: Teacher) -> None:
    good, bad = shared.tokenize(pa.array(["red circle", "blue"]), batch_tokens=1)
    far = replace(bad, features={**bad.features, "input_ids": bad.features["input_ids"] + 10_000})
    with pytest.raises(IndexError, match="index out of range"):
        shared.embed([good, far])
    assert shared.encode(["red"]).shape == (1, 7)
