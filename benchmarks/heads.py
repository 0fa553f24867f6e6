"""A head on cached features: whole steps against their matrix products alone, and a student from start to end."""

import csv
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Comparison, seconds
from benchmarks.settings import Settings
from data_schemas.training_log import METRICS_NAME
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context
from pipeline.store.store import Store
from stages import STAGES
from stages.components.compute.precision import autocast, choose_precision
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime
from stages.distill.stage import STAGE as DISTILL
from stages.encode_images.options import EncodeImagesInputs
from stages.encode_images.stage import STAGE as ENCODE_IMAGES
from stages.encode_teacher.options import EncodeInputs, EncodeParams
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER

BAR = 0.6
BAR_S = 40.0
FEATURE_DIM, DIM, BATCH_SIZE = 1280, 384, 512
_NUM_PAIRS = 20_000
_EPOCHS = 20
_LOG_EVERY = 10  # steps, whose mean counts as one measurement
_CPU = torch.device("cpu")


def compare(settings: Settings) -> list[Comparison]:
    """Compare steps of a linear head at the machine's default precision, and time a training of 20 epochs."""
    with tempfile.TemporaryDirectory() as scratch:
        context, inputs = _inputs(Path(scratch))
        bare = _bare_products()
        bare()
        baseline, ours = [], []
        for seed in range(settings.num_pairs):
            before = statistics.median(seconds(bare) for _ in range(10))
            ours.append(_seconds_of_step(context, inputs, seed=seed))
            after = statistics.median(seconds(bare) for _ in range(10))
            baseline.append((before + after) / 2)  # so that drift cancels
        whole = [_training(context, inputs, epochs=_EPOCHS, seed=settings.num_pairs)[0]]
    subject = f"a step of a linear head on cached features, {FEATURE_DIM:,} to {DIM}, batch {BATCH_SIZE}"
    rates = ", ".join(f"{BATCH_SIZE / step:,.0f}" for step in ours)
    print(f"pairs a second of a linear head on cached features: {rates}")
    return [
        Comparison(subject, "s", "its matrix products alone", baseline=baseline, ours=ours, bar=BAR),
        Comparison(
            f"a student on the features of {_NUM_PAIRS:,} images, {_EPOCHS} epochs, start to end",
            "s",
            "what it may take",
            baseline=[BAR_S],
            ours=whole,
            bar=1.0,
        ),
    ]


def _bare_products() -> Callable[[], None]:
    """Make the products that a step of a linear head and InfoNCE cannot do without, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH_SIZE, FEATURE_DIM, generator=generator)
    weight = torch.randn(DIM, FEATURE_DIM, generator=generator)
    captions = torch.randn(BATCH_SIZE, DIM, generator=generator)
    in_precision = autocast(choose_precision("auto", _CPU), _CPU)

    @torch.no_grad()
    def products() -> None:
        with in_precision():
            embeddings = features @ weight.T
        scores = embeddings.float() @ captions.T
        gradient = scores @ captions
        with in_precision():
            gradient.T @ features

    return products


def _seconds_of_step(context: Context, inputs: DistillInputs, *, seed: int) -> float:
    """Train for two epochs; return the seconds of a step, the median over lines of the log, without the first."""
    _, lines = _training(context, inputs, epochs=2, seed=seed)
    rates = [line["images_per_s"] for line in lines if "images_per_s" in line]
    return BATCH_SIZE / statistics.median(rates[1:])


def _training(
    context: Context, inputs: DistillInputs, *, epochs: int, seed: int
) -> tuple[float, list[dict[str, float]]]:
    """Train a linear head; return how long the stage took, in seconds, and the lines of its log."""
    outcome = run_stage(
        DISTILL,
        params=DistillParams(batch_size=BATCH_SIZE, epochs=epochs, lr=1e-3, seed=seed),
        inputs=inputs,
        runtime=DistillRuntime(device="cpu", log_every_steps=_LOG_EVERY),
        context=context,
    )
    text = (outcome.artifact.path / "logs" / METRICS_NAME).read_text()
    return outcome.seconds, [json.loads(line) for line in text.splitlines()]


def _inputs(folder: Path) -> tuple[Context, DistillInputs]:
    """Make embeddings of drawn captions by word vectors, and random features of as many images."""
    context = context_of(Store(folder / "store"), stages=STAGES)
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(1000)]
    numbers = generator.normal(size=(len(words), DIM))
    lines = (f"{word} {' '.join(f'{x:.3f}' for x in row)}\n" for word, row in zip(words, numbers, strict=True))
    (folder / "words.txt").write_text("".join(lines))
    manifest = folder / "pairs.tsv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filepath", "title"])
        writer.writerows([f"{pair}.jpg", " ".join(generator.choice(words, 8))] for pair in range(_NUM_PAIRS))
    embeddings = run_stage(
        ENCODE_TEACHER,
        params=EncodeParams(),
        inputs=EncodeInputs(manifest=manifest, teacher=str(folder / "words.txt")),
        runtime=ENCODE_TEACHER.runtime(),
        context=context,
    ).artifact
    np.save(
        folder / "features.npy", generator.standard_normal((_NUM_PAIRS, FEATURE_DIM), np.float32).astype(np.float16)
    )
    (folder / "features.txt").write_text("".join(f"{pair}.jpg\n" for pair in range(_NUM_PAIRS)))
    features = run_stage(
        ENCODE_IMAGES,
        params=ENCODE_IMAGES.params(),
        inputs=EncodeImagesInputs(manifest=manifest, vectors=folder / "features.npy"),
        runtime=ENCODE_IMAGES.runtime(),
        context=context,
    ).artifact
    return context, DistillInputs(embeddings=str(embeddings.path), features=str(features.path))
