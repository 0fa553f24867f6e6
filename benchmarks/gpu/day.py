"""Run steps as processes, each with a time limit, until the time of the whole is up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gpu.plan import Group, Step, names_of
from benchmarks.gpu.records import RUNNING, Record, collect, forget, read_record, write_record
from benchmarks.gpu.setup import ROOT

_LEAST_S = 8.0  # a step that has less does not begin: it would hardly have imported torch
_LOOK_EVERY_S = 0.02
_ERROR_CHARACTERS = 2000


@dataclass
class _Running:
    step: Step
    process: "subprocess.Popen[bytes]"
    began: float
    limit_s: float

    def kill(self) -> None:
        """End the process and all of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Day:
    """Runs steps one group after the other; whatever a step does, the others go on.

    Args:
        out: Folder of records and logs.
        options: Options that every step gets.
        seconds: Seconds after which no step begins or goes on.
        patience: Factor of every step's time limit.
        say: Prints a line when a step ends.
    """

    def __init__(
        self, out: Path, *, options: Sequence[str], seconds: float, patience: float = 1.0, say: Callable[[str], None]
    ) -> None:
        self._out, self._options, self._patience, self._say = out, options, patience, say
        self._end = time.monotonic() + seconds
        self._running: list[_Running] = []
        self._names: list[str] = []

    def run(self, groups: Sequence[Group]) -> None:
        """Run the steps of each group side by side."""
        self._names = names_of(groups)
        for name in self._names:
            forget(self._out, name)
        try:
            for group in groups:
                self._run_together(group)
        finally:
            for running in self._running:
                running.kill()

    def stop(self) -> None:
        """End running steps, and begin no others; safe in a signal's handler."""
        self._end = time.monotonic()

    def _run_together(self, group: Group) -> None:
        for step in group:
            left = self._end - time.monotonic()
            if left < _LEAST_S:
                self._note(step, Record(status="no time left"))
            else:
                self._running.append(self._start(step, limit_s=min(left, step.limit_s * self._patience)))
        while self._running:
            for running in list(self._running):
                self._look_at(running)
            time.sleep(_LOOK_EVERY_S)

    def _look_at(self, running: _Running) -> None:
        has_ended = running.process.poll() is not None
        seconds = time.monotonic() - running.began
        if not has_ended and seconds < running.limit_s and time.monotonic() < self._end:
            return
        running.kill()  # also where the step has ended: it may have left children
        self._running.remove(running)
        record = read_record(self._out, running.step.name) or Record()
        if record.status == RUNNING:
            end = f"ended with {running.process.returncode}" if has_ended else f"killed after {seconds:.0f} s"
            log = self._log(running.step).read_text(errors="replace")
            record = replace(record, status=end, seconds=round(seconds, 1), error=log[-_ERROR_CHARACTERS:])
        self._note(running.step, record)

    def _note(self, step: Step, record: Record) -> None:
        write_record(self._out, step.name, record)
        collect(self._out, self._names)
        self._say(f"== {step.name}: {record.status} ({record.seconds:.0f} s)")

    def _start(self, step: Step, *, limit_s: float) -> _Running:
        log = self._log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
        }
        command = [sys.executable, "-m", "benchmarks.gpu.step", step.name, step.call, *self._options]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
            )
        return _Running(step, process, time.monotonic(), limit_s)

    def _log(self, step: Step) -> Path:
        return self._out / "logs" / f"{step.name}.txt"
