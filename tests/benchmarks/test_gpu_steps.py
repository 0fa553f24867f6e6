"""The steps of a GPU day: they can be tried without one, and need nothing of what a machine for it may lack."""

import ast
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import DISTILL, Cli, Pairs

from benchmarks.gpu.__main__ import parser
from benchmarks.gpu.commands import marked_tests, verdict
from benchmarks.gpu.plan import GROUPS, Step, choose, names_of
from benchmarks.gpu.prototypes import extrapolated
from benchmarks.gpu.setup import FULL, TINY, Setup
from benchmarks.gpu.student import operations, peak_tflops
from benchmarks.gpu.table import BARS, flat, fnmatchcase
from benchmarks.gpu.waits import watched
from stages.distill.training.loss_watch import LossWatch

ROOT, TESTS = Path(__file__).parents[2], Path(__file__).parents[1]
# What `make env` brings and a machine with torch and sentence-transformers alone does not.
ABSENT = {
    "aiohttp", "datasets", "faiss", "hypothesis", "mlflow", "moto", "mypy", "obstore", "onnx", "onnxruntime",
    "onnxscript", "playwright", "tensorboard", "wandb", "xdist",
}  # fmt: skip


def try_steps(out: Path, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), "--data", str(out / "data"), *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records: dict[str, Any] = json.loads((out / "tiny" / "results.json").read_text())
    for name, record in records.items():
        assert record["status"] == "done", f"{name}: {record['error']}"
        assert not [figure for figure, value in flat(record["figures"]) if figure.endswith("failed") and value]
    return records


def test_steps__have_functions() -> None:
    for step in (step for group in GROUPS for step in group):
        assert callable(pkgutil.resolve_name(step.call)), step


def test_steps__come_after_those_whose_data_they_need() -> None:
    before: set[str] = set()
    for group in GROUPS:
        assert {name for step in group for name in step.needs} <= before
        before |= {step.name for step in group}


def test_choose__adds_what_a_step_needs_and_has_not_been_done() -> None:
    data, pack, train = Step("data", "", 1), Step("pack", "", 1, needs=("data",)), Step("train", "", 1, needs=("pack",))
    groups = ((data, Step("other", "", 1)), (pack,), (train,))
    assert choose(groups, ["train"], lambda name: False) == [(data,), (pack,), (train,)]
    assert choose(groups, ["train"], lambda name: name == "pack") == [(train,)]


def test_steps__of_little_work_are_tried_on_a_cpu(tmp_path: Path) -> None:
    records = try_steps(tmp_path, "--only", "environment", "--only", "targets")
    assert list(records) == ["environment", "targets"]
    assert records["environment"]["figures"]["bf16_tflops"] > 0
    assert records["targets"]["figures"]["ram 64"]["ms"] > 0


@pytest.mark.slow
def test_steps__are_all_tried_on_a_cpu(tmp_path: Path) -> None:
    records = try_steps(tmp_path)
    assert list(records) == names_of(GROUPS)
    figures = dict(figure for name, record in records.items() for figure in flat(record["figures"], name))
    not_tried = {"bare/best/mfu", "targets/device 1024/ms"}  # a GPU's own, and that of the full size
    for bar in BARS:
        found = [value for name, value in figures.items() if fnmatchcase(name, bar.figures)]
        assert bool(found) == (bar.figures not in not_tried), bar
        if bar.at_least is True:
            assert all(value is True for value in found), bar


def test_setup__refuses_to_measure_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="torch sees none"):
        _ = Setup(FULL, tmp_path, tmp_path).device
    assert Setup(TINY, tmp_path, tmp_path).device.type == "cpu"


def test_operations__of_resnet50_are_six_times_its_multiply_adds() -> None:
    # He et al., 2016, arXiv:1512.03385, count 3.8e9; torchvision strides in a block's second convolution: 4.09e9.
    assert operations("resnet50", 224) == pytest.approx(3 * 2 * 4.09e9, rel=1e-3)
    assert operations("resnet50", 112) == pytest.approx(operations("resnet50", 224) / 4)


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("T4", None),
    ],
)
def test_peak__is_that_of_the_datasheet(gpu: str, peak: float | None) -> None:
    assert peak_tflops(gpu) == peak


def test_extrapolation__is_exact_where_iterations_alone_grow_with_rows() -> None:
    times = {iterations: 2 + 0.5 * iterations for iterations in (1, 4)}
    assert extrapolated(times, part=5, iterations=20) == pytest.approx(2 + 20 * 5 * 0.5)


def test_waits__are_counted_by_the_line_of_the_project(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, look = ["default"], LossWatch.look

    def waiting_look(watch: LossWatch, *args: Any, **words: Any) -> None:
        if modes[-1] == "warn":  # as torch does where it waits
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        look(watch, *args, **words)

    monkeypatch.setattr(LossWatch, "look", waiting_look)
    counts: Counter[str] = Counter()
    with watched(counts, num_steps=6, watch=True, switch=modes.append):
        run_cli(*DISTILL)
    assert modes == ["default", "warn", "default", "default"]
    places = sorted(counts)
    assert all(
        re.match(r"stages/distill/[\w/]+\.py:\d+ \(benchmarks/test_gpu_steps\.py:\d+\)$", place) for place in places
    )
    assert (
        counts.total() == 5
    )  # of the loss in steps 4 to 6, of the gradient in 4 and 5: the watch ends with the last step


def test_tests_for_a_gpu__import_nothing_that_is_for_developers_alone() -> None:
    left, seen = [TESTS / "conftest.py", *marked_tests()], set()
    assert len(left) > 6
    while left:
        path = left.pop()
        names = {name.partition(".")[0] for name in imports_at_the_top(path)}
        assert not names & ABSENT, path
        seen.add(path)
        left += [helper for name in names if (helper := TESTS / f"{name}.py").exists() and helper not in seen]


def imports_at_the_top(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("tests/test_a.py::test_b[x y] PASSED                 [ 50%]", "PASSED"),
        ("tests/test_a.py::test_b ERROR                       [ 50%]", "ERROR"),
        ("[gw1] [ 50%] FAILED tests/test_a.py::test_b ", "FAILED"),
        ("FAILED tests/test_a.py::test_b - AssertionError", ""),
        ("tests/test_a.py::test_b ", ""),
    ],
)
def test_verdict__is_read_of_each_test_once(line: str, word: str) -> None:
    assert verdict(line) == word


def test_docs__show_commands_that_are_understood() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    commands = re.findall(r"^python -m benchmarks\.gpu(.*)$", text, re.MULTILINE)
    assert len(commands) > 2
    for command in commands:
        parser().parse_args(shlex.split(command, comments=True))
