"""Time a step of training against its student alone on batches in memory, and against a step with its teacher."""

import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import Comparison
from benchmarks.settings import Settings
from data_schemas.images.student_checkpoint import Preprocessing
from data_schemas.pair_sources.text.manifest_table import read_manifest
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context
from pipeline.store.store import Store
from stages import STAGES
from stages.components.compute.precision import autocast, choose_precision
from stages.components.images.transforms import Normalize
from stages.components.student.student import build_student
from stages.distill.objectives import build_objective
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime
from stages.distill.stage import STAGE as DISTILL
from stages.distill.training.optimizer import AdamWSettings, build_optimizer
from stages.distill.training.profiler import PROFILE_NAME
from stages.encode_teacher.options import EncodeInputs, EncodeParams
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER
from stages.pack.options import PackInputs, PackParams
from stages.pack.stage import STAGE as PACK

BAR = 0.95
DIM = 384
_CPU = torch.device("cpu")
_IMAGE_SIZE, _PACKED_SIDE = 64, 72
_WARM, _TIMED = 3, 6  # steps; with more, the profile's trace would be among them
_WORDS = ("red", "green", "blue", "small", "large", "square", "field", "above", "below", "beside", "bright", "dark")


@dataclass(frozen=True)
class _Pairs:
    """Images with captions, whose embeddings are cached in a store.

    Args:
        context: Context with the store.
        captions: Caption of each pair.
        inputs: Inputs of distill.
    """

    context: Context
    captions: list[str]
    inputs: DistillInputs


def compare(settings: Settings) -> list[Comparison]:
    """Compare at two sizes of student, in the machine's default precision."""
    comparisons = []
    with tempfile.TemporaryDirectory() as scratch:
        pairs = _pairs(Path(scratch), settings, num=128 * (_WARM + _TIMED))
        encode = _teacher(settings, pairs.captions)
        for student, batch_size in (("resnet18", 128), ("resnet50", 64)):
            comparisons += _compare_student(pairs, student, batch_size=batch_size, encode=encode)
    return comparisons


def _compare_student(
    pairs: _Pairs, student: str, *, batch_size: int, encode: Callable[[int, int], object]
) -> list[Comparison]:
    subject = f"a step of {student}, {batch_size} images of {_IMAGE_SIZE} px"
    bare = _bare_step(student, batch_size)
    first = timed(bare, _WARM + _TIMED // 2)[_WARM:]
    ours = {workers: _training(pairs, student, batch_size, workers=workers) for workers in (0, 1)}
    alone = first + timed(bare, _TIMED - len(first))  # before and after, so that drift cancels
    comparisons = [
        Comparison(f"{subject}, {workers} workers", "s", "the student alone", baseline=alone, ours=times, bar=BAR)
        for workers, times in ours.items()
    ]
    encodings = timed(lambda: encode(0, batch_size), _TIMED)
    with_teacher = [step + encoding for step, encoding in zip(alone, encodings, strict=True)]
    name = "the student alone, with the teacher in the step"
    comparisons.append(Comparison(subject, "s", name, baseline=with_teacher, ours=ours[1]))
    return comparisons


def _pairs(folder: Path, settings: Settings, *, num: int) -> _Pairs:
    """Take real pairs where there are some, else drawn ones; embed them by word vectors, and pack raw pixels."""
    context = context_of(Store(folder / "store"), stages=STAGES)
    manifest = folder / "pairs.tsv"
    if settings.data is None:
        draw_pairs(manifest, num)
        root = folder
    else:
        root = settings.data / "coco22k"
        manifest.write_text("".join(f"{line}\n" for line in (root / "train.tsv").read_text().splitlines()[: num + 1]))
    captions: list[str] = read_manifest(manifest).table["caption"].to_pylist()
    teacher = _word_vectors(folder / "words.txt", captions)
    embeddings = run_stage(
        ENCODE_TEACHER,
        params=EncodeParams(),
        inputs=EncodeInputs(manifest=manifest, teacher=str(teacher)),
        runtime=ENCODE_TEACHER.runtime(),
        context=context,
    ).artifact
    packed = run_stage(
        PACK,
        params=PackParams(short_side=_PACKED_SIDE, format="raw"),
        inputs=PackInputs(manifest=manifest, image_root=root, image_identity="path"),
        runtime=PACK.runtime(),
        context=context,
    ).artifact
    inputs = DistillInputs(embeddings=str(embeddings.path), packed=str(packed.path))
    return _Pairs(context, captions, inputs)


def _training(pairs: _Pairs, student: str, batch_size: int, *, workers: int) -> list[float]:
    """Measure the seconds of each step of the real training, after the first ones."""
    outcome = run_stage(
        DISTILL,
        params=DistillParams(
            student=student, image_size=_IMAGE_SIZE, batch_size=batch_size, episode_size=batch_size * (_WARM + _TIMED),
            epochs=1, seed=workers,
        ),
        inputs=pairs.inputs,
        runtime=DistillRuntime(device="cpu", workers=workers, profile=True),
        context=pairs.context,
    )  # fmt: skip
    profile = json.loads((outcome.artifact.path / "logs" / PROFILE_NAME).read_text())
    seconds: list[float] = profile["seconds_of_steps"]
    return seconds[_WARM:]


def _bare_step(student: str, batch_size: int) -> Callable[[], None]:
    """Make a step of forward, the same loss, backward and optimizer on images and targets in memory."""
    torch.manual_seed(0)
    params = DistillParams()
    model: nn.Module = build_student(student, embedding_dim=DIM, image_size=_IMAGE_SIZE)
    model.to(memory_format=torch.channels_last)
    objective = build_objective("infonce", dim=DIM)
    optimizer = build_optimizer(model, objective, AdamWSettings(lr=params.lr, weight_decay=params.weight_decay))
    in_precision = autocast(choose_precision("auto", _CPU), _CPU)
    pixels = torch.randint(256, (batch_size, 3, _IMAGE_SIZE, _IMAGE_SIZE), dtype=torch.uint8)
    with in_precision():
        images = Normalize(Preprocessing(image_size=_IMAGE_SIZE), _CPU)(pixels)
    targets, rows = torch.randn(batch_size, DIM), torch.arange(batch_size)

    def step() -> None:
        with in_precision():
            embeddings: Tensor = model(images)
        objective(student=embeddings.float(), teacher=targets, rows=rows).backward()
        if params.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _teacher(settings: Settings, captions: list[str]) -> Callable[[int, int], object]:
    """Embed some captions: by all-MiniLM-L6-v2, or by a transformer of its shape with random weights and tokens."""
    if settings.teacher is not None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        model = SentenceTransformer(str(settings.teacher), device="cpu", local_files_only=True)
        return lambda start, stop: model.encode(captions[start:stop], batch_size=stop - start, show_progress_bar=False)
    import transformers

    shape = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    random = transformers.BertModel(shape).train(mode=False)
    tokens = torch.randint(1000, 30000, (len(captions), 16))

    @torch.no_grad()
    def encode(start: int, stop: int) -> object:
        return random(tokens[start:stop])

    return encode


def draw_pairs(manifest: Path, num: int) -> None:
    """Draw images of 500 x 375 pixels beside a manifest of them."""
    random = np.random.default_rng(0)
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filepath", "title"])
        for number, name in enumerate(_names(num)):
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(manifest.parent / name, quality=90)
            writer.writerow([name, " ".join([*random.choice(_WORDS, 8), str(number)])])


def _names(num: int) -> Iterator[str]:
    return (f"{number:05}.jpg" for number in range(num))


def _word_vectors(path: Path, captions: list[str]) -> Path:
    """Write a quick teacher: random vectors of all words, in GloVe's format."""
    words = sorted({word for caption in captions for word in caption.lower().split()} | set(_WORDS))
    vectors = np.random.default_rng(0).normal(size=(len(words), DIM))
    lines = (f"{word} {' '.join(f'{x:.3f}' for x in row)}\n" for word, row in zip(words, vectors, strict=True))
    path.write_text("".join(lines))
    return path


def timed(function: Callable[[], object], times: int) -> list[float]:
    """Measure the seconds of each of several calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds
