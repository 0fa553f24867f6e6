"""Make the data of the other steps: images, captions, teachers, packs and cached embeddings."""

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.setup import Setup

_CAPTIONS_PER_IMAGE = 4
_VOCABULARY = 8000
_FEWEST_WORDS, _MOST_WORDS = 6, 16
_QUALITY, _NOISE = 90, 18.0


def images(setup: Setup) -> Iterator[dict[str, Any]]:
    """Draw images with coarse colours and fine noise, and write a manifest of them with several captions each."""
    folder, num = setup.data / "images", setup.sizes.num_images
    folder.mkdir(parents=True, exist_ok=True)
    start, cores = time.monotonic(), os.cpu_count() or 1
    draw = partial(_draw, folder=folder, sides=setup.sizes.image_sides)
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        num_bytes = sum(pool.map(draw, range(num), chunksize=max(1, num // (4 * cores))))
    lines = [f"images/{number % num:06}.jpg\t{text}" for number, text in enumerate(captions(_CAPTIONS_PER_IMAGE * num))]
    setup.manifest.write_text("\n".join(["filepath\ttitle", *lines]) + "\n")
    yield {"images": num, "seconds": time.monotonic() - start, "mean_kb": num_bytes / num / 1000}


def captions(num: int) -> list[str]:
    """Make distinct captions of made-up words, as long as people write them."""
    draw, words = random.Random(1), _words()  # noqa: S311 - nothing is to be kept secret
    texts = (" ".join(draw.choices(words, k=draw.randint(_FEWEST_WORDS, _MOST_WORDS))) for _ in range(num))
    return [f"{text} {words[number % len(words)]} {words[number // len(words)]}" for number, text in enumerate(texts)]


def teacher_models(setup: Setup) -> Iterator[dict[str, Any]]:
    """Save transformers with random weights, of the shapes of teachers that people use."""
    for name, (width, num_layers) in setup.sizes.teachers.items():
        start = time.monotonic()
        _save_bert(Path(setup.teacher(name)), width=width, num_layers=num_layers)
        yield {name: {"seconds": time.monotonic() - start}}


def packs(setup: Setup) -> Iterator[dict[str, Any]]:
    """Pack the images in both forms."""
    from pipeline.runner import run_stage
    from stages.pack.options import PackInputs, PackParams, PackRuntime
    from stages.pack.stage import STAGE

    for form in ("raw", "jpeg"):
        outcome = run_stage(
            STAGE,
            params=PackParams(short_side=setup.sizes.short_side, format=form),
            inputs=PackInputs(manifest=setup.manifest, image_identity="path"),
            runtime=PackRuntime(workers=os.cpu_count() or 1),
            context=setup.context(),
        )
        yield {form: {"path": str(outcome.artifact.path), "seconds": outcome.seconds}}


def cache(setup: Setup) -> Iterator[dict[str, Any]]:
    """Embed the captions by the smaller teacher, through the stage."""
    from pipeline.runner import run_stage
    from stages.encode_teacher.options import EncodeInputs, EncodeParams, EncodeRuntime
    from stages.encode_teacher.stage import STAGE

    outcome = run_stage(
        STAGE,
        params=EncodeParams(),
        inputs=EncodeInputs(manifest=setup.manifest, teacher=setup.teacher(next(iter(setup.sizes.teachers)))),
        runtime=EncodeRuntime(device=setup.device.type),
        context=setup.context(),
    )
    yield {"path": str(outcome.artifact.path), "seconds": outcome.seconds}


def _words() -> list[str]:
    draw = random.Random(0)  # noqa: S311 - as above
    syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
    return sorted({"".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(2 * _VOCABULARY)})[
        :_VOCABULARY
    ]


def _draw(number: int, *, folder: Path, sides: tuple[int, int]) -> int:
    """Write one image; return its bytes on disk."""
    import cv2

    cv2.setNumThreads(1)
    height, width = sides
    numbers = np.random.default_rng(number)
    coarse = numbers.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    colours = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    fine = numbers.normal(0, _NOISE, (height // 2, width // 2, 3)).astype(np.float32)
    pixels = np.clip(colours + cv2.resize(fine, (width, height)), 0, 255).astype(np.uint8)
    path = folder / f"{number:06}.jpg"
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return path.stat().st_size


def _save_bert(folder: Path, *, width: int, num_layers: int) -> None:
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_words()]
    shape = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=num_layers, num_attention_heads=12, intermediate_size=4 * width
    )
    plain = folder.with_name(f"{folder.name}-plain")
    transformers.BertTokenizer(vocab={word: row for row, word in enumerate(vocabulary)}).save_pretrained(plain)
    transformers.BertModel(shape).save_pretrained(plain)
    modules = [Transformer(str(plain)), Pooling(width), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
