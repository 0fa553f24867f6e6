"""Try commands as a user would: a training that is killed, an evaluation, and the tests that need a GPU."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.setup import ROOT, Setup
from benchmarks.gpu.training import train_small

_END = 1500  # characters of what a command said
_LOOK_EVERY_S = 0.05
_TEST_PROCESSES = 6


def gpu_tests(setup: Setup) -> Iterator[dict[str, Any]]:
    """Run the tests that are marked ``gpu``; where they fail, once more with warnings that are not errors."""
    files, marker = marked_tests(), "gpu"
    if setup.device.type != "cuda":  # without a GPU, some other tests
        files, marker = [ROOT / "tests" / "stages" / "test_random_numbers.py"], "not gpu and not slow"
    words = ["-v", "-m", marker, "-p", "no:cacheprovider", "--no-header", "--tb=short", *map(str, files)]
    if importlib.util.find_spec("xdist"):
        words += ["-n", str(min(_TEST_PROCESSES, os.cpu_count() or 1))]
    for name, more in (("as they are", []), ("warnings allowed", ["-W", "default"])):
        figures: dict[str, Any] = {}
        for figures in _verdicts([*words, *more]):
            yield {name: figures}
        if figures["is_green"]:
            return


def _verdicts(words: list[str]) -> Iterator[dict[str, Any]]:
    """Run pytest, and count as it goes: a step that is killed has counted until then."""
    start, counts, failed = time.monotonic(), Counter(passed=0, failed=0), []
    command = [sys.executable, "-m", "pytest", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            print(line, end="")
            if word := verdict(line):
                counts["passed" if word == "PASSED" else "failed"] += 1
                yield dict(counts)
            elif line.startswith(("FAILED", "ERROR")):
                failed.append(line.strip())
    yield {"is_green": process.returncode == 0, **counts, "seconds": time.monotonic() - start, "tests_failed": failed}


def verdict(line: str) -> str:
    """Read the verdict in a line of ``pytest -v``, run by one process or several; empty where there is none."""
    outcome = re.match(r"(?:\[gw\d+\] \[ *\d+%\]|\S+::.*?) (PASSED|FAILED|ERROR)\b", line)
    return outcome[1] if outcome else ""


def marked_tests() -> list[Path]:
    """List the files of tests that need a GPU: the others may import packages that are not installed."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in path.read_text()]


def resume(setup: Setup) -> Iterator[dict[str, Any]]:
    """Kill a training of two objectives after its first saved state, and go on with it."""
    sizes, store = setup.sizes, setup.data / "store-of-resume"  # others train at the same time
    shutil.rmtree(store, ignore_errors=True)
    words = [
        *("distill", "--store", store, "--embeddings", setup.figures("cache")["path"]),
        *("--packed", setup.figures("packs")["raw"]["path"], "--device", setup.device.type),
        *("--student", sizes.small_student, "--image-size", sizes.small_image_size, "--workers", sizes.small_workers),
        *("--batch-size", sizes.small_batch_size, "--epochs", 2, "--warmup-steps", 0, "--validation-fraction", 0.05),
        *("--loss", "infonce=1", "--loss", "proto-rkd=0.5", "--loss-option", "proto-rkd.num-prototypes=8"),
        *("--augmentation", "light", "--ema-decay", 0.99, "--save-every-minutes", 0.02, "--log-every-steps", 1),
    ]
    yield {"was_killed": _kill_when_saved(words, store)}
    start = time.monotonic()
    done = command(*words, "--json")
    yield {
        "seconds": time.monotonic() - start,
        "goes_on": "going on from step" in done.stderr,
        "says": print_output(done),
    }
    outcome = json.loads(done.stdout.splitlines()[-1])
    lines = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    yield {
        "steps": outcome["counts"]["steps"],
        "has_every_step": steps == list(range(1, outcome["counts"]["steps"] + 1)),
    }


def _kill_when_saved(words: list[Any], store: Path) -> bool:
    """Start a training, and kill it as soon as its draft holds a state; return whether it was still at work."""
    process = subprocess.Popen([sys.executable, "cli.py", *map(str, words)], cwd=ROOT)
    while process.poll() is None:
        if any(store.glob("distill/.draft-*/**/latest.safetensors")):
            process.kill()
            return process.wait() < 0
        time.sleep(_LOOK_EVERY_S)
    return False


def evaluate(setup: Setup) -> Iterator[dict[str, Any]]:
    """Evaluate a student by retrieval, neighbours and a linear probe, from the command line."""
    student = train_small(setup, num_steps=2).artifact.path
    num_held, num_classed = (48, 40) if setup.is_tiny else (2000, 400)
    held, classes = setup.data / "held.tsv", setup.data / "classes"
    held.write_text("".join(setup.manifest.read_text().splitlines(keepends=True)[: num_held + 1]))
    for split, first in (("train", 0), ("test", num_classed)):
        for number in range(num_classed):
            link = classes / split / f"class{number % 4}" / f"{number}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(setup.data / "images" / f"{first + number:06}.jpg")
    start = time.monotonic()
    done = command(
        *("evaluate", "--store", setup.store, "--student", student, "--retrieval", held, "--device", setup.device.type),
        *("--knn", classes, "--linear-probe", classes, "--knn-k", 5, "--num-resamples", 100, "--force"),
    )
    yield {"ends_well": done.returncode == 0, "seconds": time.monotonic() - start, "says": print_output(done)}


def command(*words: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own."""
    command = [sys.executable, "cli.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def print_output(done: "subprocess.CompletedProcess[str]") -> str:
    """Print a command's output, for the step's log, and return its end."""
    text = done.stdout + done.stderr
    print(text, flush=True)
    return text[-_END:]
