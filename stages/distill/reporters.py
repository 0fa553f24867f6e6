"""Trackers that a training reports to beside its own ``metrics.jsonl``: TensorBoard, Weights & Biases."""

import importlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error, write_atomic


class Reporter(Protocol):
    """Takes the numbers of a training as they come."""

    def start(self, step: int) -> None:
        """Be told where training goes on from; steps after this one may have been reported before."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step, by name."""

    def close(self) -> None:
        """Write out what has been taken; nothing follows."""


def make_reporters(names: Sequence[str], log_dir: Path, run_name: str, params: Mapping[str, Any]) -> list[Reporter]:
    """Make the reporters that ``--report-to`` names; on the first rank alone.

    Args:
        names: of trackers; one that is named twice is told once.
        log_dir: where they keep their files.
        run_name: what they call the run.
        params: what they note of it; values that JSON takes.

    Raises:
        ProtoRKDError: a name is unknown, its package is not installed, or it cannot be started.
    """
    reporters: list[Reporter] = []
    for name in dict.fromkeys(names):
        if name not in _REPORTERS:
            raise ProtoRKDError(f"--report-to must be one of {', '.join(_REPORTERS)}; got {name!r}.")
        reporters.append(_REPORTERS[name](log_dir, run_name, params))
    return reporters


class TensorBoardReporter:
    """Writes event files to ``tensorboard`` in the log folder; a resumed run goes on in the same folder.

    Args:
        log_dir: the log folder.
        params: written as a text.
    """

    def __init__(self, log_dir: Path, params: Mapping[str, Any]) -> None:
        self._module = _import("torch.utils.tensorboard", package="tensorboard")
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
            self._writer.add_scalar(_tag(name), value, step)

    def close(self) -> None:
        """Write out and close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbReporter:
    """Sends to Weights & Biases, in the project that WANDB_PROJECT names, or ``protorkd``.

    The run's id is kept in the log folder, so that a resumed training resumes the run, and one that is made anew under
    the same name is a run of its own.

    Args:
        log_dir: the log folder.
        run_name: the run's name, and how its id begins.
        params: the run's config.
    """

    def __init__(self, log_dir: Path, run_name: str, params: Mapping[str, Any]) -> None:
        wandb = _import("wandb", package="wandb")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "protorkd"),
                id=_kept_id(log_dir / "wandb_id.txt", run_name),
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

    def start(self, step: int) -> None:
        """Nothing: `report` leaves out what the run has."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers; a step that the run is past was logged before a resume."""
        if step >= self._run.step:
            self._run.log({_tag(name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _tensorboard(log_dir: Path, run_name: str, params: Mapping[str, Any]) -> Reporter:
    return TensorBoardReporter(log_dir, params)  # a run is named by its folder


_REPORTERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Reporter]] = {
    "tensorboard": _tensorboard,
    "wandb": WandbReporter,
}


def _import(module: str, *, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ProtoRKDError(
            f"--report-to {package} must have the package {package}; it cannot be imported ({error}). "
            f"Run pip install 'protorkd[{package}]'."
        ) from error


def _kept_id(path: Path, run_name: str) -> str:
    """The id in the file, which is made where there is none."""
    if not path.exists():
        write_atomic(path, f"{run_name}-{uuid.uuid4().hex[:6]}\n".encode())
    return path.read_text().strip()


def _tag(name: str) -> str:
    """Numbers of training under one heading, as those of validation have their own."""
    return name if "/" in name else f"train/{name}"
