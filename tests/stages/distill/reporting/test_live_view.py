"""What a user sees of a training, on a terminal and elsewhere."""

import io
import logging
import math
import sys
import threading

import pytest
from rich.console import Console

import pipeline.progress
from stages.distill.reporting.live_view import LiveView, LogView, open_view

TRAINING = {
    "step": 300,
    "epoch": 2.5,
    "loss": 0.75,
    "simreg": 0.5,
    "rkd": 0.25,
    "lr": 5e-4,
    "grad_norm": 1.25,
    "images_per_s": 1234.0,
    "data_wait_share": 0.03,
}
VALIDATION = {
    "step": 240,
    "epoch": 2.0,
    "validation/text_to_image/recall@1": 12.3,
    "validation/image_to_text/recall@1": 10.9,
    "validation/mean_recall": 30.06,
    "validation/text_to_image/median_rank": 14.0,
    "validation/images": 500.0,
}


def terminal() -> Console:
    return Console(record=True, force_terminal=True, width=100, height=40, file=io.StringIO(), _environ={})


def last_image(console: Console) -> list[str]:
    """Return the lines of the last drawing: what the terminal goes up over between two of them is no text."""
    text = console.export_text()
    return [line.rstrip() for line in text[text.rindex("distilling") :].splitlines()]


def test_live_view__is_a_bar_until_there_are_numbers() -> None:
    console = terminal()
    with LiveView(console, total_steps=1000, done=299) as view:
        view.advance()
    [bar] = last_image(console)
    assert "300/1000 steps" in bar
    assert bar.endswith("left")


def test_live_view__shows_each_number_by_its_name() -> None:
    console = terminal()
    with LiveView(console, total_steps=1000, done=300) as view:
        view.show(VALIDATION)
        view.show(TRAINING)
    assert [line.split() for line in last_image(console)[1:]] == [
        ["epoch", "2.50", "learning", "rate", "5.00e-04"],
        ["loss", "0.75000", "gradient", "norm", "1.25"],
        ["simreg", "0.50000", "images/s", "1,234"],
        ["rkd", "0.25000", "waiting", "for", "data", "3", "%"],
        ["validation,", "epoch", "2,", "mean", "recall", "30.1", "recall@1", "median", "rank"],
        ["text", "to", "image", "12.3", "14.0"],
        ["image", "to", "text", "10.9"],
    ]


def test_live_view__names_no_term_where_it_is_the_loss() -> None:
    console = terminal()
    with LiveView(console, total_steps=10, done=0) as view:
        view.show({name: value for name, value in TRAINING.items() if name != "rkd"} | {"grad_norm": math.nan})
    text = "\n".join(last_image(console))
    assert "loss" in text
    assert "nan" in text
    assert "simreg" not in text


def test_live_view__fits_an_80_column_terminal() -> None:
    console = Console(record=True, force_terminal=True, width=80, file=io.StringIO(), _environ={})
    recalls = {f"validation/text_to_image/recall@{k}": 100.0 for k in (1, 5, 10)}
    with LiveView(console, total_steps=1_000_000, done=300) as view:
        view.show(TRAINING)
        view.show({"step": 240, "epoch": 100.0, **recalls, "validation/mean_recall": 100.0})
    assert not [line for line in last_image(console) if "…" in line]


def test_live_view__lets_the_log_pass_above_it() -> None:
    console = terminal()
    with LiveView(console, total_steps=10, done=0):
        sys.stderr.write("a line of the log\n")
    before, after = console.export_text().split("a line of the log\n")
    assert before.startswith("distilling")
    assert after.startswith("distilling")


def test_live_view__starts_no_thread() -> None:
    before = threading.active_count()
    with LiveView(terminal(), total_steps=10, done=0) as view:
        view.show(TRAINING)
        assert threading.active_count() == before


def test_log_view__writes_a_line_for_each(caplog: pytest.LogCaptureFixture, quiet_log: None) -> None:
    caplog.set_level(logging.INFO, logger="protorkd")
    steps: list[int] = []
    view = LogView(steps.append)
    view.advance()
    view.show(TRAINING)
    view.show(VALIDATION)
    assert steps == [1]
    assert caplog.messages == [
        "distill: step 300, epoch 2.50, loss 0.75000 (simreg 0.50000, rkd 0.25000), lr 5.00e-04, gradient norm 1.25, "
        "1234 images/s, 3 % of the time waiting for data",
        "distill: epoch 2, validation: text_to_image/recall@1 12.3, image_to_text/recall@1 10.9, mean_recall 30.06, "
        "text_to_image/median_rank 14, images 500",
    ]


def test_open_view__suits_stderr(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quiet_log: None
) -> None:
    caplog.set_level(logging.INFO, logger="protorkd")
    monkeypatch.setattr(pipeline.progress, "PLAIN_INTERVAL_S", 0.0)
    with open_view(total_steps=10, done=3) as view:
        assert isinstance(view, LogView)
        view.advance()
    [line] = caplog.messages
    assert line.startswith("distilling: 4 of 10 steps, ")
    stderr = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    with open_view(total_steps=10, done=3) as view:
        assert isinstance(view, LiveView)
        assert sys.stderr is not stderr
    assert sys.stderr is stderr
    assert "3/10" in stderr.getvalue()
