"""Measure captions per second: the project's teacher beside the library's own ``encode``, and the whole stage."""

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from sentence_transformers import SentenceTransformer

from benchmarks.gpu.data import captions
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import peak_memory, wait
from data_schemas.pair_sources.text.manifest_table import read_manifest
from pipeline.runner import run_stage
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.teacher import Teacher
from stages.encode_teacher.options import EncodeInputs, EncodeParams, EncodeRuntime
from stages.encode_teacher.stage import STAGE

_NUM_WARM = 1024


def teachers(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time both ways in both precisions; the larger a teacher, the fewer captions."""
    texts: list[str] = read_manifest(setup.manifest).table["caption"].to_pylist()
    for number, name in enumerate(setup.sizes.teachers):
        some = texts[: len(texts) >> number]
        for precision in ("bf16", "fp32"):
            figures: dict[str, Any] = {}
            for way in (
                _ours(setup, name, precision, some),
                _library(setup, name, precision, some[: len(some) // 4]),
            ):
                for more in way:
                    figures |= more
                    yield {f"{name} {precision}": figures}
            figures["against_library"] = figures["captions_per_s"] / figures["library_best"]
            yield {f"{name} {precision}": figures}
    for precision in ("bf16", "fp32"):
        yield {f"stage, {next(iter(setup.sizes.teachers))} {precision}": _stage(setup, precision, len(texts))}


def _ours(setup: Setup, name: str, precision: str, texts: list[str]) -> Iterator[dict[str, Any]]:
    """Time tokenizing, then embedding; the stage does both at once."""
    teacher = Teacher(
        find_teacher(setup.teacher(name)), precision=precision, sample=texts[:64], devices=[str(setup.device)]
    )
    teacher.encode(captions(_NUM_WARM))
    array = pa.array(texts, pa.large_string())
    for batch_tokens in (0, setup.sizes.batch_tokens):
        start = time.monotonic()
        batches = teacher.tokenize(array, batch_tokens=batch_tokens)
        tokenized = time.monotonic()
        teacher.embed(batches)
        end = time.monotonic()
        suffix = f"_at_{batch_tokens}_tokens" if batch_tokens else ""
        yield {
            f"captions_per_s{suffix}": len(texts) / (end - start),
            f"tokenized_per_s{suffix}": len(texts) / (tokenized - start),
            f"embedded_per_s{suffix}": len(texts) / (end - tokenized),
        }
    del teacher
    yield peak_memory()


def _library(setup: Setup, name: str, precision: str, texts: list[str]) -> Iterator[dict[str, Any]]:
    model = SentenceTransformer(setup.teacher(name), device=str(setup.device), local_files_only=True)
    if precision == "bf16":
        model.bfloat16()
    model.encode(captions(_NUM_WARM), show_progress_bar=False)
    best = 0.0
    for batch_size in setup.sizes.library_batches:
        wait()
        start = time.monotonic()
        model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        rate = len(texts) / (time.monotonic() - start)
        best = max(best, rate)
        yield {f"library_{batch_size}": rate, "library_best": best}


def _stage(setup: Setup, precision: str, num_captions: int) -> dict[str, float]:
    outcome = run_stage(
        STAGE,
        params=EncodeParams(teacher_precision=precision),
        inputs=EncodeInputs(manifest=setup.manifest, teacher=setup.teacher(next(iter(setup.sizes.teachers)))),
        runtime=EncodeRuntime(device=str(setup.device)),
        context=setup.context(),
    )
    return {"captions_per_s": num_captions / outcome.seconds, "seconds": outcome.seconds}
