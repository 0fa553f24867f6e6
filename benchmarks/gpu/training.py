"""Time whole trainings, from packs and cached embeddings, beside the bare step."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.student import mfu
from benchmarks.gpu.timing import attempted, peak_memory
from pipeline.runner import StageOutcome, run_stage
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime
from stages.distill.stage import STAGE
from stages.distill.training.profiler import PROFILE_NAME


def training(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time trainings from both packs at the first batch size, and from the raw one at the others."""
    first, *others = setup.sizes.batches
    for pack, batch_size in (("raw", first), ("jpeg", first), *(("raw", other) for other in others)):
        yield {f"{pack} {batch_size}": attempted(_measured_training, setup, pack=pack, batch_size=batch_size)}


def compiled(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time a training with ``--compile``."""
    batch_size = setup.sizes.batch_size
    yield {f"raw {batch_size}": _measured_training(setup, batch_size=batch_size, compile=True)}


def deterministic(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time a training with ``--deterministic`` and without, and see whether a second one ends with the same bytes."""
    batch_size = setup.sizes.batch_size
    outcomes = [train(setup, batch_size=batch_size, deterministic=True) for _ in range(2)]
    with_it = _measured(setup, outcomes[-1])
    yield {"on": with_it, "same_bytes": len({outcome.artifact.record.digest for outcome in outcomes}) == 1}
    without = _measured_training(setup, batch_size=batch_size)  # last: cuBLAS reads once a process how it may add up
    yield {"off": without, "times_as_long": without["images_per_s"] / with_it["images_per_s"]}


def train(setup: Setup, *, batch_size: int, pack: str = "raw", **options: Any) -> StageOutcome:
    """Train the student of these sizes for the steps of a batch size, with a profile; options are distill's."""
    settings: dict[str, Any] = {
        "student": setup.sizes.student,
        "image_size": setup.sizes.image_size,
        "batch_size": batch_size,
        "episode_size": batch_size * setup.sizes.batches.get(batch_size, 1),
        "epochs": 1,
        "device": setup.device.type,
        "profile": True,
        **({"workers": 2} if setup.is_tiny else {}),
        **options,
    }
    runtime = {each.name: settings.pop(each.name) for each in fields(DistillRuntime) if each.name in settings}
    peak_memory()
    return run_stage(
        STAGE,
        params=DistillParams(**settings),
        inputs=DistillInputs(embeddings=setup.figures("cache")["path"], packed=setup.figures("packs")[pack]["path"]),
        runtime=DistillRuntime(**runtime),
        context=setup.context(),
    )


def train_small(setup: Setup, *, num_steps: int, **options: Any) -> StageOutcome:
    """Train the small student, for steps that are not timed."""
    sizes = setup.sizes
    settings: dict[str, Any] = {
        "student": sizes.small_student,
        "image_size": sizes.small_image_size,
        "batch_size": sizes.small_batch_size,
        "episode_size": num_steps * sizes.small_batch_size,
        "workers": sizes.small_workers,
        "profile": False,
    }
    return train(setup, **{**settings, **options})


def _measured_training(setup: Setup, **options: Any) -> dict[str, Any]:
    return _measured(setup, train(setup, **options))


def _measured(setup: Setup, outcome: StageOutcome) -> dict[str, Any]:
    """Read the profile of a training that has just ended, and compare it with the fastest bare step of its batch."""
    profile = json.loads((outcome.artifact.path / "logs" / PROFILE_NAME).read_text())
    batch_size: int = outcome.artifact.record.params["batch_size"]
    seconds = profile["seconds_of_steps"][setup.sizes.skip :]
    images_per_s = batch_size / statistics.fmean(seconds)
    share_of_peak = mfu(setup, setup.sizes.student, images_per_s)
    bare = setup.figures("bare")
    of_bare = [bare.get(f"{batch_size}{more}", {}).get("images_per_s", 0.0) for more in ("", " cudnn.benchmark")]
    return {
        "images_per_s": images_per_s,
        "images_per_s_of_median_step": batch_size / statistics.median(seconds),
        **({"share_of_bare": images_per_s / max(of_bare)} if any(of_bare) else {}),
        **({} if share_of_peak is None else {"mfu": share_of_peak}),
        "slowest_ms": 1000 * max(seconds),
        "first_step_ms": 1000 * profile["seconds_of_steps"][0],
        "whole_s": outcome.seconds,
        **peak_memory(),
        "parts_ms": {name: 1000 * part["median_s"] for name, part in profile["parts"].items()},
    }
