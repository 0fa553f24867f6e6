"""Trackers: what they are told, where they keep it, and what is said when they are not there."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from data_schemas.errors import ProtoRKDError
from stages.distill.reporting.trackers import make_reporters

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

    def add_hparams(self, params: Mapping[str, Any], finals: Mapping[str, float], *, run_name: str) -> None:
        self.compared = (params, finals, run_name)

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
        self.exit_code: int | None = None
        self.summary: dict[str, float] = {}

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self, *, exit_code: int) -> None:
        self.is_finished, self.exit_code = True, exit_code


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
    with pytest.raises(ProtoRKDError, match="--report-to must be one of tensorboard, wandb, mlflow; got 'aim'"):
        make_reporters(["aim"], tmp_path, "run", PARAMS)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
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


@pytest.mark.filterwarnings("ignore")
def test_tensorboard__compares_runs_by_parameters_and_last_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [reporter] = make_reporters(["tensorboard"], tmp_path, "run", PARAMS)
    reporter.start(0)
    reporter.report(1, {"loss": 0.5})
    reporter.finish({"loss": 0.5, "validation/mean_recall": 12.0})
    reporter.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in shown.Scalars("final/validation/mean_recall")] == [12.0]
    assert [event.value for event in shown.Scalars("train/loss")] == [0.5]
    assert "_hparams_/session_start_info" in shown.summary_metadata


def test_wandb__logs_a_named_run_below_the_log_folder(tmp_path: Path, fake_wandb: Any) -> None:
    [reporter] = make_reporters(["wandb"], tmp_path / "logs", "3fa9", PARAMS)
    reporter.start(0)
    reporter.report(5, {"loss": 0.5, "validation/mean_recall": 12.0})
    reporter.finish({"loss": 0.5})
    reporter.close()
    [words] = fake_wandb.inits
    assert (words["project"], words["name"], words["config"], words["resume"]) == ("protorkd", "3fa9", PARAMS, "allow")
    assert words["dir"] == str(tmp_path / "logs")
    assert words["id"].startswith("3fa9-")
    assert fake_wandb.run.logged == [(5, {"train/loss": 0.5, "validation/mean_recall": 12.0})]
    assert fake_wandb.run.is_finished
    assert fake_wandb.run.exit_code == 0
    assert fake_wandb.run.summary == {"final/loss": 0.5}


def test_wandb__is_told_of_a_training_that_was_broken_off(tmp_path: Path, fake_wandb: Any) -> None:
    [reporter] = make_reporters(["wandb"], tmp_path, "3fa9", PARAMS)
    reporter.close()
    assert fake_wandb.run.exit_code == 1


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


@pytest.mark.filterwarnings("ignore")
def test_wandb__writes_offline_what_can_be_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    for start, steps in [(0, (1, 2, 3)), (1, (2, 3, 4))]:
        [reporter] = make_reporters(["wandb"], tmp_path, "3fa9", PARAMS)
        reporter.start(start)
        for step in steps:
            reporter.report(step, {"loss": 1.0 / step})
        reporter.finish({"loss": 1.0 / steps[-1]})
        reporter.close()
    run_id = (tmp_path / "wandb_id.txt").read_text().strip()
    records = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in records} == {f"run-{run_id}.wandb"}
    for path, losses in zip(sorted(records), ("1.0", "0.25"), strict=True):
        assert all(word in path.read_bytes() for word in (b"train/loss", b"final/loss", losses.encode()))
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert run_id.startswith("3fa9-")


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return module


def runs_of(mlflow: Any, log_dir: Path) -> Any:
    client = mlflow.MlflowClient(tracking_uri=(log_dir / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("protorkd")
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.filterwarnings("ignore")
def test_mlflow__resumes_its_run_and_repeats_no_step(tmp_path: Path, mlflow: Any) -> None:
    for start, steps in [(0, (1, 2, 3)), (1, (2, 3, 4))]:
        [reporter] = make_reporters(["mlflow"], tmp_path, "3fa9", PARAMS)
        reporter.start(start)
        for step in steps:
            reporter.report(step, {"loss": 0.5 * step, "validation/recall@1": 12.0, "grad_norm": float("nan")})
        client, [run] = runs_of(mlflow, tmp_path)
        assert run.info.status == "RUNNING"
        if start:
            reporter.finish({"loss": 2.0})
        reporter.close()
        client, [run] = runs_of(mlflow, tmp_path)
        assert run.info.status == ("FINISHED" if start else "FAILED")
    assert run.info.run_name == "3fa9"
    assert run.data.params == {"lr": "0.1", "loss": "['simreg=1']"}
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert run.data.metrics == {"train/loss": 2.0, "validation/recall_at_1": 12.0, "final/loss": 2.0}


@pytest.mark.filterwarnings("ignore")
def test_mlflow__says_what_to_do_where_it_is_not_reached(
    tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "a file"))
    (tmp_path / "a file").write_text("in the way")
    with pytest.raises(ProtoRKDError, match=r"--report-to mlflow must reach .*a file; .* MLFLOW_TRACKING_URI"):
        make_reporters(["mlflow"], tmp_path, "run", PARAMS)
