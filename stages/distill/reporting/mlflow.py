"""Report to MLflow, in one run that a resumed training goes on with."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from stages.distill.reporting.tracker_imports import import_tracker, tag_of

_ID_NAME = "mlflow_run_id.txt"
_FOLDER = "mlruns"
_LONGEST_PARAM = 6000


class MLflowReporter:
    """Sends to MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, or ``protorkd``.

    Where MLFLOW_TRACKING_URI names no server, the run lies in ``mlruns`` in the log folder. Its id is kept beside it,
    so that a resumed training goes on with the run; steps that are taken again are not logged twice.

    Args:
        log_dir: Log folder of the training.
        run_name: Name of the run.
        params: Options that are noted when the run is made.
    """

    def __init__(self, log_dir: Path, run_name: str, params: Mapping[str, Any]) -> None:
        self._mlflow = import_tracker("mlflow", name="mlflow")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self._uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which it asks for before it writes plain files
            self._uri = (log_dir / _FOLDER).absolute().as_uri()
        with self._reached():
            self._client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            self._run_id = self._find_run(log_dir / _ID_NAME) or self._make_run(log_dir / _ID_NAME, run_name, params)
            self._past = self._last_step()
        self._status = "FAILED"

    def start(self, step: int) -> None:
        """Do nothing: `report` leaves out what the run has."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers; a step that the run is past was logged before a resume."""
        if step > self._past:
            self._log({tag_of(name): value for name, value in values.items()}, step)

    def finish(self, values: Mapping[str, float]) -> None:
        """Log what the training ended with, and note that it did."""
        self._log({f"final/{name}": value for name, value in values.items()}, 0)
        self._status = "FINISHED"

    def close(self) -> None:
        """End the run, as finished or as failed; it may be gone on with."""
        with self._reached():
            self._client.set_terminated(self._run_id, status=self._status)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (self._mlflow.MlflowException, OSError) as error:
            raise ProtoRKDError(
                f"--report-to mlflow must reach {self._uri}; {error}. Mend that or MLFLOW_TRACKING_URI, and run the "
                "same command again: it goes on from its last saved state."
            ) from error

    def _log(self, values: Mapping[str, float], step: int) -> None:
        metric, now = self._mlflow.entities.Metric, int(time.time() * 1000)
        numbers = {name.replace("@", "_at_"): value for name, value in values.items() if math.isfinite(value)}
        with self._reached():
            self._client.log_batch(
                self._run_id, metrics=[metric(name, value, now, step) for name, value in numbers.items()]
            )

    def _find_run(self, path: Path) -> str | None:
        """Find the run that the log folder names, and set it running; None where MLflow has no such run."""
        if not path.exists():
            return None
        run_id = path.read_text().strip()
        try:
            self._client.update_run(run_id, status="RUNNING")
        except self._mlflow.MlflowException:
            return None
        return run_id

    def _make_run(self, path: Path, run_name: str, params: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "protorkd")
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id: str = self._client.create_run(experiment_id, run_name=run_name).info.run_id
        param = self._mlflow.entities.Param
        noted = [param(key, str(value)[:_LONGEST_PARAM]) for key, value in params.items()]
        self._client.log_batch(run_id, params=noted)
        write_atomic(path, f"{run_id}\n".encode())
        return run_id

    def _last_step(self) -> int:
        known = self._client.get_run(self._run_id).data.metrics
        histories = [self._client.get_metric_history(self._run_id, name) for name in known]
        return max((metric.step for history in histories for metric in history), default=-1)
