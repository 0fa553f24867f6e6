"""Several devices, played by processes on the CPU: what they give, what is said where one fails, and how they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from processes import ROOT, is_alive
from workbench import counted_captions

from data_schemas.errors import ProtoRKDError
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.processes import TeacherProcesses, _nearness
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


@pytest.fixture
def own_processes() -> Callable[[], set[int]]:
    """Return those that this test has started."""
    before = {process.pid for process in multiprocessing.active_children()}
    return lambda: {process.pid for process in multiprocessing.active_children() if process.pid} - before


@pytest.fixture
def loading(bert_folder: Path) -> Iterator[TeacherProcesses]:
    """Two processes that have just begun to load their teachers."""
    processes = TeacherProcesses(["cpu", "cpu"], {"source": find_teacher(str(bert_folder))}, dim=16, num_threads=1)
    yield processes
    processes.stop()


def test_process__that_dies_is_told_of(loading: TeacherProcesses, own_processes: Callable[[], set[int]]) -> None:
    said = "The processes that embed captions on cpu, cpu must stay alive; one has ended"
    answer, [process] = loading._ask(_nearness), own_processes()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ProtoRKDError, match=said):
        loading._result(answer)
    with pytest.raises(ProtoRKDError, match=said):
        loading.nearness()


def test_processes__end_at_once_when_they_are_stopped(
    loading: TeacherProcesses, own_processes: Callable[[], set[int]]
) -> None:
    answers = [loading._ask(_nearness) for _ in range(2)]
    assert len(own_processes()) == 2
    loading.stop()
    assert not own_processes()
    with pytest.raises(ProtoRKDError, match="must stay alive"):
        loading._result(answers[0])


SCRIPT = """
import multiprocessing, sys, time
from stages.components.teacher.processes import TeacherProcesses, _nearness

if __name__ == "__main__":
    processes = TeacherProcesses(["cpu", "cpu"], {"source": None}, dim=16, num_threads=1)
    processes._ask(time.sleep, 600), processes._ask(time.sleep, 600)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def test_processes__do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command, environment = [sys.executable, str(script)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
        deadline = time.monotonic() + 60
        while any(map(is_alive, children)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
