"""The driver of a GPU day: whatever a step does, the others go on, and what was found stays."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import day
from benchmarks.gpu.day import Day
from benchmarks.gpu.plan import Group, Step
from benchmarks.gpu.records import Record, read_record

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
LONG_S = 120.0


def step(call: str, *, limit_s: float = LONG_S, name: str = "") -> Step:
    return Step(name or call.replace("_", "-"), f"fake_steps:{call}", limit_s)


@pytest.fixture
def run_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Record]]:
    """Run groups of fake steps; return their records by name."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))

    def run(*groups: Group, seconds: float = 10 * LONG_S) -> dict[str, Record]:
        options = ["--out", str(tmp_path), "--data", str(tmp_path / "data"), "--tiny"]
        Day(tmp_path, options=options, seconds=seconds, say=lambda line: None).run(groups)
        return {name: Record(**record) for name, record in json.loads((tmp_path / "results.json").read_text()).items()}

    return run


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_day__keeps_figures_by_step_and_goes_on_whatever_a_step_does(run_day: Callable[..., dict[str, Record]]) -> None:
    records = run_day((step("fails"),), (step("dies"),), (step("counts"),))
    assert list(records) == ["fails", "dies", "counts"]
    failed, dead, done = records.values()
    assert failed.status == "failed: ValueError"
    assert failed.figures == {"first": 1}
    assert failed.error.endswith("ValueError: a step failed\n")
    assert (dead.status, dead.figures) == ("ended with 3", {"first": 1})
    assert dead.error.endswith("last words\n")
    assert (done.status, done.figures, done.error) == ("done", {"first": 1, "second": {"third": 3.0}}, "")


def test_day__kills_a_step_at_its_limit_with_its_children(
    run_day: Callable[..., dict[str, Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is put on once the step hangs, so that nobody waits for its limit."""

    def monotonic() -> float:
        hangs = (found := read_record(tmp_path, "hangs")) and "child" in found.figures
        return time.monotonic() + (LONG_S - 1 if hangs else 0)

    monkeypatch.setattr(day, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    records = run_day((step("hangs", limit_s=LONG_S - 1),), (step("counts"),))
    hung = records["hangs"]
    assert hung.status.startswith("killed after")
    assert LONG_S - 1 <= hung.seconds < 2 * LONG_S
    wait_until(lambda: not is_alive(hung.figures["child"]))
    assert records["counts"].status == "done"


def test_day__runs_the_steps_of_a_group_side_by_side(run_day: Callable[..., dict[str, Record]]) -> None:
    records = run_day((step("meets_one"), step("meets_two")))
    assert [record.status for record in records.values()] == ["done", "done"]


def test_day__begins_nothing_when_its_time_is_up(run_day: Callable[..., dict[str, Record]]) -> None:
    assert run_day((step("counts"),), seconds=1)["counts"] == Record(status="no time left")


def test_day__forgets_what_an_earlier_one_found(run_day: Callable[..., dict[str, Record]]) -> None:
    run_day((step("counts", name="same"),))
    assert run_day((step("dies", name="same"),))["same"].figures == {"first": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command__shows_what_was_found_when_a_signal_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import benchmarks.gpu.__main__ as command\n"
        "from benchmarks.gpu.plan import Step\n"
        "names = ('counts', 'hangs', 'fails')\n"
        "command.GROUPS = tuple((Step(name, f'fake_steps:{name}', 600),) for name in names)\n"
        "command.main()\n"
    )
    words = ["--tiny", "--out", str(tmp_path), "--data", str(tmp_path / "data")]
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    out = tmp_path / "tiny"
    wait_until(lambda: (found := read_record(out, "hangs")) and found.figures)
    process.send_signal(number)
    said, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 128 + number
    results = json.loads((out / "results.json").read_text())
    assert [record["status"].split()[0] for record in results.values()] == ["done", "killed", "no"]
    assert not is_alive(results["hangs"]["figures"]["child"])
    assert "second: third 3\n" in said
    assert "hangs: killed after" in said
