"""metrics.jsonl: means over steps, one line for each step that has one, none twice after a resume."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.components.loading.batch import Batch
from stages.distill.reporting.metric_log import Metrics


class Listener:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def start(self, step: int) -> None:
        self.heard.append(("start", step))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append((step, dict(values)))

    def finish(self, values: Mapping[str, float]) -> None:
        self.heard.append(("finish", dict(values)))

    def close(self) -> None:
        self.heard.append("close")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def begin(path: Path, *, every: int, step: int = 0, **options: Any) -> Metrics:
    metrics = Metrics(path, every=every, **options)
    metrics.start(step)
    return metrics


def add(metrics: Metrics, loss: float, *, grad_norm: float = 1.0) -> None:
    metrics.add(num_images=8, values={"loss": torch.tensor(loss), "simreg": torch.tensor(2 * loss)})
    metrics.add_step(lr=0.1, grad_norm=torch.tensor(grad_norm))


def test_metrics__are_means_over_the_steps_of_a_line(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=2)
    for step, loss in enumerate([1.0, 3.0, 5.0, 9.0, 11.0], start=1):
        add(metrics, loss, grad_norm=step)
        metrics.write_when_due(step, epoch=step / 4)
    first, second = lines_of(tmp_path / "metrics.jsonl")
    assert (first["step"], first["loss"], first["simreg"], first["epoch"]) == (2, 2.0, 4.0, 0.5)
    assert (second["step"], second["loss"], second["lr"], second["grad_norm"]) == (4, 7.0, 0.1, 3.5)
    assert second["images_per_s"] > 0


def test_metrics__are_means_over_micro_batches(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=1)
    for loss in (1.0, 2.0, 6.0):
        metrics.add(num_images=8, values={"loss": torch.tensor(loss)})
    metrics.add_step(lr=0.1, grad_norm=torch.tensor(4.0))
    metrics.write_when_due(1, epoch=1)
    [line] = lines_of(tmp_path / "metrics.jsonl")
    assert (line["loss"], line["grad_norm"]) == (3.0, 4.0)


def test_metrics__drop_lines_of_steps_that_are_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n{"step": 3, "loss": 1}\n{"step": 4, "lo')
    metrics = begin(path, every=1, step=2)
    add(metrics, 5.0)
    metrics.write_when_due(3, epoch=1.0)
    assert [(line["step"], line["loss"]) for line in lines_of(path)] == [(1, 1), (2, 1), (3, 5.0)]


@pytest.mark.parametrize("line", [b"[1]", b"7", b"null", b'{"loss": 1}', b'{"step": "x"}', b"\x00\x00", b"\xff"])
def test_metrics__drop_what_is_no_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    begin(path, every=1, step=9)
    assert lines_of(path) == [{"step": 1}]


def test_metrics__write_no_line_where_no_step_was_taken(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=1)
    metrics.write_when_due(1, epoch=1.0)
    assert lines_of(tmp_path / "metrics.jsonl") == []


def test_metrics__write_null_for_what_is_not_finite(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=1)
    add(metrics, 1.0, grad_norm=math.inf)
    metrics.write_when_due(1, epoch=1.0)
    metrics.write(1, epoch=1, values={"validation/mean_recall": math.nan})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    training, validation = (json.loads(line, parse_constant=refuse) for line in lines)
    assert (training["loss"], training["grad_norm"]) == (1.0, None)
    assert validation == {"step": 1, "epoch": 1, "validation/mean_recall": None}


def test_metrics__count_steps_that_were_left_out_and_average_the_others(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=3)
    norms = (2.0, math.inf, 4.0, 1.0, 2.0, 3.0, math.inf, math.nan, -math.inf)
    for step, norm in enumerate(map(torch.tensor, norms), start=1):
        metrics.add(num_images=8, values={"loss": torch.tensor(1.0)})
        metrics.add_step(lr=0.1, grad_norm=norm, taken=norm.isfinite())
        metrics.write_when_due(step, epoch=1.0)
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [(line["grad_norm"], line.get("skipped_steps")) for line in lines] == [(3.0, 1), (2.0, None), (None, 3)]
    assert all(line["loss"] == 1.0 for line in lines)


def test_metrics__write_lines_of_validation_beside_those_of_training(tmp_path: Path) -> None:
    metrics = begin(tmp_path / "metrics.jsonl", every=1)
    add(metrics, 1.0)
    metrics.write_when_due(3, epoch=1.0)
    metrics.write(3, epoch=1, values={"validation/mean_recall": 12.5})
    training, validation = lines_of(tmp_path / "metrics.jsonl")
    assert (training["step"], training["loss"]) == (3, 1.0)
    assert validation == {"step": 3, "epoch": 1, "validation/mean_recall": 12.5}


def test_metrics__tell_reporters_of_every_line_and_close_them_in_the_end(tmp_path: Path) -> None:
    listener = Listener()
    metrics = Metrics(tmp_path / "metrics.jsonl", every=2, reporters=[listener])
    metrics.start(4)
    with contextlib.suppress(RuntimeError), metrics.shown(4, total_steps=8):
        for step in (5, 6):
            add(metrics, float(step), grad_norm=math.nan)
            metrics.write_when_due(step, epoch=step / 2)
        metrics.write(6, epoch=3, values={"validation/mean_recall": 12.5})
        raise RuntimeError("power cut")
    start, (step, values), validation, close = listener.heard
    assert (start, step, values["loss"], close) == (("start", 4), 6, 5.5, "close")
    assert math.isnan(values["grad_norm"])
    assert validation == (6, {"epoch": 3, "validation/mean_recall": 12.5})


def test_metrics__tell_reporters_what_a_whole_training_ended_with(tmp_path: Path) -> None:
    listener = Listener()
    metrics = Metrics(tmp_path / "metrics.jsonl", every=1, reporters=[listener])
    metrics.start(0)
    with metrics.shown(0, total_steps=2):
        for step in (1, 2):
            add(metrics, float(step))
            metrics.write_when_due(step, epoch=step / 2)
        metrics.write(2, epoch=1, values={"validation/mean_recall": 12.5})
    (finish, values), close = listener.heard[-2:]
    assert (finish, close) == ("finish", "close")
    assert {name: values[name] for name in ("steps", "epoch", "loss", "validation/mean_recall")} == {
        "steps": 2,
        "epoch": 1,
        "loss": 2.0,
        "validation/mean_recall": 12.5,
    }


def test_metrics__of_other_ranks_than_the_first_write_and_show_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("not this rank's to mend")
    metrics = begin(path, every=1, enabled=False)
    with metrics.shown(0, total_steps=1), caplog.at_level("INFO", logger="protorkd"):
        add(metrics, 1.0)
        metrics.write_when_due(1, epoch=1.0)
        metrics.write(1, epoch=1.0, values={"validation/mean_recall": 1.0})
    assert path.read_text() == "not this rank's to mend"
    assert caplog.messages == []


def test_metrics__pass_every_batch_on_and_note_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("stages.distill.reporting.metric_log.time.monotonic", lambda: clock[0])
    metrics = begin(tmp_path / "metrics.jsonl", every=2)
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
        with metrics.paused():
            clock[0] += 100.0  # validation
    [line] = lines_of(tmp_path / "metrics.jsonl")
    assert line["images_per_s"] == 2.0
    assert line["data_wait_share"] == 0.25
