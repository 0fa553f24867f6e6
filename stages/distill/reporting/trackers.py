"""Trackers that a training reports to beside its own ``metrics.jsonl``: TensorBoard, Weights & Biases, MLflow."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error
from stages.distill.reporting.mlflow import MLflowReporter
from stages.distill.reporting.tracker_imports import import_tracker, kept_id, tag_of


class Reporter(Protocol):
    """Takes the numbers of a training as they come."""

    def start(self, step: int) -> None:
        """Be told where training goes on from; steps after this one may have been reported before."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step, by name."""

    def finish(self, values: Mapping[str, float]) -> None:
        """Take the results of a training that came to its end: the last number of each name, and its counts."""

    def close(self) -> None:
        """Write out all numbers; nothing follows. Without `finish` before it, the training was broken off."""


def make_reporters(names: Sequence[str], log_dir: Path, run_name: str, params: Mapping[str, Any]) -> list[Reporter]:
    """Make the reporters that ``--report-to`` names; on the first rank alone.

    Args:
        names: Names of trackers; one that is named twice is told once.
        log_dir: Folder in which they keep their files.
        run_name: Name of the run.
        params: Options that they note of the run; values that JSON takes.

    Raises:
        ProtoRKDError: a name is unknown, its package is not installed, or it cannot be started.
    """
    reporters: list[Reporter] = []
    for name in dict.fromkeys(names):
        if name not in _REPORTERS:
            raise ProtoRKDError(f"--report-to must be one of {', '.join(_REPORTERS)}; got {name!r}.")
        reporters.append(_REPORTERS[name](log_dir, run_name, params))
    return reporters


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        ProtoRKDError: one is not.
    """
    for name in dict.fromkeys(names):
        import_tracker(_MODULES[name], name=name)


class TensorBoardReporter:
    """Writes event files to ``tensorboard`` in the log folder; a resumed run goes on in the same folder.

    Args:
        log_dir: Log folder of the training.
        params: Options, which are written as a text.
    """

    def __init__(self, log_dir: Path, params: Mapping[str, Any]) -> None:
        self._module = import_tracker("torch.utils.tensorboard", name="tensorboard")
        self._folder = log_dir / "tensorboard"
        self._params = params
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Open the folder; TensorBoard then drops what it holds of later steps."""
        try:
            self._writer = self._module.SummaryWriter(str(self._folder), purge_step=step + 1)
        except OSError as error:
            raise disk_error(self._folder, error) from error
        self._writer.add_text("parameters", f"```\n{json.dumps(dict(self._params), indent=2)}\n```", step)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Write each number as a scalar."""
        for name, value in values.items():
            self._writer.add_scalar(tag_of(name), value, step)

    def finish(self, values: Mapping[str, float]) -> None:
        """Write parameters and last numbers side by side, for the tab that compares runs."""
        plain = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in self._params.items()
        }
        finals = {f"final/{name}": value for name, value in values.items()}
        self._writer.add_hparams(plain, finals, run_name=".")

    def close(self) -> None:
        """Write out and close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbReporter:
    """Sends to Weights & Biases, in the project that WANDB_PROJECT names, or ``protorkd``.

    The run's id is kept in the log folder, so that a resumed training resumes the run, and one that is made anew under
    the same name is a run of its own.

    Args:
        log_dir: Log folder of the training.
        run_name: Name of the run, with which its id begins.
        params: Options, which become the run's config.
    """

    def __init__(self, log_dir: Path, run_name: str, params: Mapping[str, Any]) -> None:
        wandb = import_tracker("wandb", name="wandb")
        self._folder = log_dir / "wandb"
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "protorkd"),
                id=kept_id(log_dir / "wandb_id.txt", run_name),
                name=run_name,
                dir=str(log_dir),
                config=dict(params),
                resume="allow",
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise ProtoRKDError(
                f"--report-to wandb must reach Weights & Biases; {error}. Run wandb login, or set WANDB_MODE=offline."
            ) from error
        self._exit_code = 1

    def start(self, step: int) -> None:
        """Do nothing: `report` leaves out what the run has."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers; a step that the run is past was logged before a resume."""
        if step >= self._run.step:
            self._run.log({tag_of(name): value for name, value in values.items()}, step=step)

    def finish(self, values: Mapping[str, float]) -> None:
        """Put the last numbers into the run's summary."""
        self._run.summary.update({f"final/{name}": value for name, value in values.items()})
        self._exit_code = 0

    def close(self) -> None:
        """End the run, as finished or as failed; it may be gone on with.

        Links to logs that W&B's own process goes on writing to are removed: an artifact's content must not change.
        """
        self._run.finish(exit_code=self._exit_code)
        for path in list(self._folder.rglob("*")):
            if path.is_symlink():
                path.unlink()


def _tensorboard(log_dir: Path, run_name: str, params: Mapping[str, Any]) -> Reporter:
    return TensorBoardReporter(log_dir, params)  # a run is named by its folder


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_REPORTERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Reporter]] = {
    "tensorboard": _tensorboard,
    "wandb": WandbReporter,
    "mlflow": MLflowReporter,
}
