"""Trackers: what they are told, where they keep it, and what is said when they are not there."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from data_schemas.errors import ProtoRKDError
from stages.distill.reporters import make_reporters

PARAMS = {"lr": 0.1, "loss": ["simreg=1"]}


class FakeWriter:
    """Stands for TensorBoard's SummaryWriter."""

    made: ClassVar[list["FakeWriter"]] = []

    def __init__(self, folder: str, *, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.texts: list[str] = []
        self.is_closed = False
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts.append(text)

    def close(self) -> None:
        self.is_closed = True


class FakeRun:
    """Stands for a run of Weights & Biases that has the steps below ``step``."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.is_finished = False

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def fake_tensorboard(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(FakeWriter, "made", [])
    return FakeWriter.made


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("wandb")
    module.run, module.inits = FakeRun(0), []

    class Error(Exception):
        pass

    def init(**words: Any) -> FakeRun:
        module.inits.append(words)
        return module.run  # type: ignore[no-any-return]

    module.Error, module.init, module.Settings = Error, init, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_make_reporters__makes_none_where_none_is_named(tmp_path: Path) -> None:
    assert make_reporters((), tmp_path, "run", PARAMS) == []


def test_make_reporters__makes_each_once(tmp_path: Path, fake_tensorboard: Any, fake_wandb: Any) -> None:
    assert len(make_reporters(("tensorboard", "wandb", "tensorboard"), tmp_path, "run", PARAMS)) == 2


def test_make_reporters__refuses_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="--report-to must be one of tensorboard, wandb; got 'mlflow'"):
        make_reporters(["mlflow"], tmp_path, "run", PARAMS)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_make_reporters__says_what_to_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ProtoRKDError, match=rf"--report-to {name} must .*pip install 'protorkd\[{name}\]'"):
        make_reporters([name], tmp_path, "run", PARAMS)
    assert not list(tmp_path.iterdir())


def test_tensorboard__takes_scalars_and_drops_what_comes_again(
    tmp_path: Path, fake_tensorboard: list[FakeWriter]
) -> None:
    [reporter] = make_reporters(["tensorboard"], tmp_path, "run", PARAMS)
    reporter.start(40)
    reporter.report(41, {"loss": 0.5, "validation/mean_recall": 12.0})
    reporter.close()
    [writer] = fake_tensorboard
    assert (writer.folder, writer.purge_step, writer.is_closed) == (str(tmp_path / "tensorboard"), 41, True)
    assert writer.scalars == [("train/loss", 0.5, 41), ("validation/mean_recall", 12.0, 41)]
    assert '"lr": 0.1' in writer.texts[0]


def test_tensorboard__closes_what_was_never_started(tmp_path: Path, fake_tensorboard: list[FakeWriter]) -> None:
    [reporter] = make_reporters(["tensorboard"], tmp_path, "run", PARAMS)
    reporter.close()
    assert fake_tensorboard == []


# TensorBoard's own dependencies warn of one another.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard__shows_one_value_a_step_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps, loss in [(0, (1, 2, 3), 1.0), (1, (2, 3, 4), 2.0)]:
        [reporter] = make_reporters(["tensorboard"], tmp_path, "run", PARAMS)
        reporter.start(start)
        for step in steps:
            reporter.report(step, {"loss": loss * step})
        reporter.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("train/loss")] == [(1, 1), (2, 4), (3, 6), (4, 8)]


def test_wandb__logs_a_named_run_below_the_log_folder(tmp_path: Path, fake_wandb: Any) -> None:
    [reporter] = make_reporters(["wandb"], tmp_path / "logs", "3fa9", PARAMS)
    reporter.start(0)
    reporter.report(5, {"loss": 0.5, "validation/mean_recall": 12.0})
    reporter.close()
    [words] = fake_wandb.inits
    assert (words["project"], words["name"], words["config"], words["resume"]) == ("protorkd", "3fa9", PARAMS, "allow")
    assert words["dir"] == str(tmp_path / "logs")
    assert words["id"].startswith("3fa9-")
    assert fake_wandb.run.logged == [(5, {"train/loss": 0.5, "validation/mean_recall": 12.0})]
    assert fake_wandb.run.is_finished


def test_wandb__resumes_its_run_and_repeats_no_step(tmp_path: Path, fake_wandb: Any) -> None:
    make_reporters(["wandb"], tmp_path, "3fa9", PARAMS)
    fake_wandb.run = FakeRun(3)  # steps 0 to 2 are there
    [reporter] = make_reporters(["wandb"], tmp_path, "3fa9", PARAMS)
    reporter.start(1)
    for step in (2, 3, 4):
        reporter.report(step, {"loss": 1.0})
    assert [step for step, _ in fake_wandb.run.logged] == [3, 4]
    make_reporters(["wandb"], tmp_path / "anew", "3fa9", PARAMS)
    first, resumed, anew = (words["id"] for words in fake_wandb.inits)
    assert first == resumed != anew


def test_wandb__says_what_to_do_where_it_is_not_reached(
    tmp_path: Path, fake_wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**words: Any) -> FakeRun:
        raise fake_wandb.Error("api_key not configured")

    monkeypatch.setattr(fake_wandb, "init", refuse)
    with pytest.raises(ProtoRKDError, match=r"api_key not configured\. Run wandb login, or set WANDB_MODE=offline"):
        make_reporters(["wandb"], tmp_path, "run", PARAMS)
