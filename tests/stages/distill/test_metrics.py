"""metrics.jsonl: means over steps, one line for each step that has one, none twice after a resume."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.distill.metrics import Metrics
from stages.image_batches import Batch


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def add(metrics: Metrics, loss: float) -> None:
    metrics.add(num_images=8, lr=0.1, values={"loss": torch.tensor(loss), "simreg": torch.tensor(2 * loss)})


def test_metrics__are_means_over_the_steps_of_a_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", keep_to_step=0, every=2)
    for step, loss in enumerate([1.0, 3.0, 5.0, 9.0, 11.0], start=1):
        add(metrics, loss)
        metrics.write_when_due(step, epoch=step / 4)
    first, second = lines_of(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["simreg"], first["epoch"]) == (2, 2.0, 4.0, 0.5)
    assert (second["step"], second["loss"], second["lr"]) == (4, 7.0, 0.1)
    assert second["images_per_s"] > 0


def test_metrics__drop_lines_of_steps_that_are_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    metrics = Metrics(path, keep_to_step=2, every=1)
    add(metrics, 5.0)
    metrics.write_when_due(3, epoch=1.0)
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 1), (2, 1), (3, 5.0)]


@pytest.mark.parametrize("line", ["[1]", "7", "null", '{"loss": 1}', '{"step": "x"}', "\x00\x00"])
def test_metrics__drop_what_is_no_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    Metrics(path, keep_to_step=9, every=1)
    assert lines_of(path) == [{"step": 1}]


def test_metrics__write_no_line_where_no_step_was_taken(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", keep_to_step=0, every=1)
    metrics.write_when_due(1, epoch=1.0)
    assert lines_of(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_metrics__refuse_a_loss_that_is_not_finite(tmp_path: Path, loss: float) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", keep_to_step=0, every=3)
    add(metrics, loss)
    add(metrics, 1.0)
    with pytest.raises(ProtoRKDError, match="The loss must stay finite; it is not, within the 2 steps up to step 8"):
        metrics.check_finite(8)
    with pytest.raises(ProtoRKDError, match="The loss must stay finite"):
        metrics.write_when_due(9, epoch=1.0)
    assert lines_of(tmp_path / "metrics.jsonl") == []


def test_metrics__pass_every_batch_on_and_note_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("stages.distill.metrics.time.monotonic", lambda: clock[0])
    metrics = Metrics(tmp_path / "metrics.jsonl", keep_to_step=0, every=2)
    batch = Batch(images=torch.zeros(0), rows=torch.zeros(0), rejected={})

    def slow() -> Iterator[Batch]:
        for _ in range(2):
            clock[0] += 1.0  # reading
            yield batch

    for step, given in enumerate(metrics.timed(slow()), start=1):
        assert given is batch
        clock[0] += 3.0  # training
        add(metrics, 1.0)
        metrics.write_when_due(step, epoch=1.0)
    [line] = lines_of(tmp_path / "metrics.jsonl")
    assert (line["data_wait_share"], line["images_per_s"]) == (0.25, 2.0)
