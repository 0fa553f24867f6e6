"""Students and evaluations made up of outcomes, in a store as the pipeline writes it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_schemas.evaluation_report import write_report
from data_schemas.files import write_atomic
from data_schemas.per_query_results import QueryResults, outcomes_folder, write_outcomes
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.distill.options import DistillParams

NUM = 120

Checkpoints = Mapping[str, Sequence[QueryResults]]


@dataclass(frozen=True)
class NoOptions:
    pass


@dataclass(frozen=True)
class Made:
    """What a stage is to write and report, under inputs that tell it from others."""

    write: Callable[[Draft], object]
    inputs: Mapping[str, Input[None]]
    counts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MadeSources:
    made: Input[Made]
    inputs: Mapping[str, Input[None]]


def run_made(params: Any, sources: MadeSources, out: Draft, runtime: NoOptions, context: Context) -> Result:
    made = sources.made.value
    made.write(out)
    return Result(counts=made.counts, metrics=made.metrics)


def identify_made(inputs: Made, params: Any, context: Context) -> MadeSources:
    return MadeSources(Input("", value=inputs), inputs.inputs)


def make(
    store: Path,
    stage: str,
    digests: Mapping[str, str],
    write: Callable[[Draft], object],
    params: Any = None,
    **made: Any,
) -> Artifact:
    params = params or NoOptions()
    declared = Stage(stage, 1, "Write.", type(params), Made, NoOptions, identify_made, run_made)
    inputs = {name: Input(digest, value=None) for name, digest in digests.items()}
    options = {"params": params, "inputs": Made(write, inputs, **made), "runtime": NoOptions()}
    return run_stage(declared, **options, context=context_of(Store(store))).artifact


def make_student(store: Path, name: str, *, log: Sequence[Mapping[str, Any]] = (), **params: Any) -> Artifact:
    """Make a student of 100 pairs, whose bytes say what it is, and whose training logged these lines."""

    def write(out: Draft) -> None:
        write_atomic(out.path / "student.safetensors", f"{name} {params}".encode())
        if log:
            write_atomic(out.logs / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in log).encode())

    return make(store, "distill", {"name": name}, write, DistillParams(**params), counts={"pairs": 100})


def make_evaluation(
    store: Path,
    student: Artifact,
    checkpoints: Checkpoints,
    *,
    settings: str = "",
    entries: Sequence[Mapping[str, Any]] = (),
    metrics: Mapping[str, float] | None = None,
) -> Artifact:
    """Make an evaluation of a student, with outcomes of its checkpoints, and entries of its report."""
    metrics = {"pets/zero_shot/top1": 50.0, "pets/clustering/ari": 0.5} if metrics is None else metrics
    report = {
        "student": {
            "fingerprint": student.record.fingerprint,
            "checkpoint": list(checkpoints)[-1] if checkpoints else "last",
            "backbone": "resnet18",
        },
        "teacher": {"name": "minilm"},
        "sets": list(entries),
        "metrics": metrics,
        "checkpoints": [
            {"name": name, "epoch": None, "metrics": metrics if name == "last" else {}} for name in checkpoints
        ],
        **{key: [] for key in ("failures", "absent", "overlap")},
        "settings": settings,
    }

    def write(out: Draft) -> None:
        write_report(out.path, report)
        for name, outcomes in checkpoints.items():
            write_outcomes(out.path / outcomes_folder(name), outcomes)

    digests = {"student": student.record.digest, "settings": settings}
    return make(store, "evaluate", digests, write, metrics=metrics)


def outcomes_of(seed: int, *, set_name: str = "pets", ease: float = 0.5) -> list[QueryResults]:
    """Classification and retrieval on the same images; the ease is the share of hits."""
    draws = np.random.default_rng(seed).random(NUM)
    images = [f"{number}.jpg" for number in range(NUM)]
    labels = ["cat" if number % 3 else "dog" for number in range(NUM)]
    hits = (draws < ease).astype(np.float64)
    ranks = 1 + np.floor(draws * 20)
    return [
        QueryResults(set_name, "zero_shot", images, {"top1": hits}, labels=labels),
        QueryResults(set_name, "image_to_text", images, {"recall@5": (ranks <= 5).astype(np.float64), "rank": ranks}),
    ]


def retrieval_outcomes(seed: int, *, ease: float, set_name: str = "test", num: int = NUM) -> list[QueryResults]:
    """Retrieval both ways, with two captions an image; the higher the ease, the better the ranks."""
    generator = np.random.default_rng(seed)
    images = [f"images/{number:03}.jpg" for number in range(num)]
    twice = [image for image in images for _ in range(2)]
    captions = [f"{word} disc {image}" for image in images for word in ("a", "the")]

    def measured(size: int) -> dict[str, Any]:
        ranks = 1 + np.floor(generator.random(size) ** (1 + ease) * 50)
        return {f"recall@{k}": (ranks <= k).astype(np.float64) for k in (1, 5, 10)} | {"rank": ranks}

    return [
        QueryResults(set_name, "text_to_image", twice, measured(2 * num), queries=captions),
        QueryResults(set_name, "image_to_text", images, measured(num)),
    ]


def retrieval_entry(outcomes: Sequence[QueryResults], *, half_width: float = 2.0) -> dict[str, Any]:
    """Make the entry of a report for outcomes of `retrieval_outcomes`, with intervals of this width to either side."""
    recalls = {
        f"{each.task}/{name}": 100 * float(values.mean())
        for each in outcomes
        for name, values in each.measures.items()
        if name != "rank"
    }
    metrics = {
        "mean_recall": sum(recalls.values()) / len(recalls),
        **recalls,
        **{f"{each.task}/median_rank": float(np.median(each.measures["rank"])) for each in outcomes},
    }
    return {
        "name": outcomes[0].set_name,
        "task": "retrieval",
        "num_images": len(outcomes[1].images),
        "num_captions": len(outcomes[0].images),
        "rejected": 0,
        "metrics": metrics,
        "intervals": {
            name: {"low": value - half_width, "high": value + half_width, "num_pictures": len(outcomes[1].images)}
            for name, value in metrics.items()
        },
        "chance": {},
    }


def make_measured(
    store: Path, name: str, outcomes: Sequence[QueryResults], **student: Any
) -> tuple[Artifact, Artifact]:
    """Make a student and its evaluation on a retrieval set."""
    made = make_student(store, name, **student)
    entry = retrieval_entry(outcomes)
    metrics = {f"{entry['name']}/{measure}": value for measure, value in entry["metrics"].items()}
    return made, make_evaluation(store, made, {"last": outcomes}, entries=[entry], metrics=metrics)
