"""Time the pass of encode-images, from files to rows on disk, against the bare forward over batches in memory."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.measure import Comparison
from benchmarks.settings import Settings
from benchmarks.step import draw_pairs, timed
from data_schemas.embedding_array import Shard
from data_schemas.images.student_checkpoint import Preprocessing
from pipeline.runner import context_of, run_stage
from pipeline.store.store import Store
from stages import STAGES
from stages.components.backbones.registry import find_family
from stages.components.compute.precision import autocast, choose_precision
from stages.components.embeddings.image_rows import Compute, ImageRows
from stages.components.images.transforms import Normalize
from stages.components.loading.batch import Batch
from stages.encode_images.options import EncodeImagesInputs, EncodeImagesParams, EncodeImagesRuntime
from stages.encode_images.stage import STAGE

BAR = 0.95
_BACKBONE, _IMAGE_SIZE, _BATCH_SIZE = "resnet18", 128, 64
_WARM, _TIMED = 2, 6  # batches
_CPU = torch.device("cpu")


def compare(settings: Settings) -> list[Comparison]:
    """Compare the seconds of each batch, one thread for the backbone and a process beside it that reads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return [_compare(Path(scratch), settings)]
    finally:
        torch.set_num_threads(threads)


def _compare(folder: Path, settings: Settings) -> Comparison:
    manifest, root = folder / "pairs.tsv", folder
    num = _BATCH_SIZE * (_WARM + _TIMED)
    if settings.data is None:
        draw_pairs(manifest, num)
    else:
        root = settings.data / "coco22k"
        manifest.write_text("".join(f"{line}\n" for line in (root / "train.tsv").read_text().splitlines()[: num + 1]))
    weights = folder / "weights.safetensors"
    family, name = find_family(_BACKBONE)
    built = family.build(name, image_size=_IMAGE_SIZE, pooling="native")
    safetensors.torch.save_file(built.network.state_dict(), weights)
    forward = _forward(built.network.to(memory_format=torch.channels_last), built.preprocessing)
    first = timed(forward, _WARM + _TIMED // 2)[_WARM:]
    ours = _stage(manifest, root, weights, folder / "store")
    alone = first + timed(forward, _TIMED - len(first))  # before and after, so that drift cancels
    subject = f"encode-images of {_BACKBONE}, {_BATCH_SIZE} images of {_IMAGE_SIZE} px, 1 worker"
    return Comparison(subject, "s", "the forward alone, in memory", baseline=alone, ours=ours, bar=BAR)


def _forward(network: torch.nn.Module, preprocessing: Preprocessing) -> Callable[[], None]:
    """Make a forward over a batch in memory, normalised before."""
    pixels = torch.randint(256, (_BATCH_SIZE, 3, _IMAGE_SIZE, _IMAGE_SIZE), dtype=torch.uint8)
    in_precision = autocast(choose_precision("auto", _CPU), _CPU)
    with in_precision():
        images = Normalize(preprocessing, _CPU)(pixels)

    @torch.inference_mode()
    def forward() -> None:
        with in_precision():
            network(images)

    return forward


def _stage(manifest: Path, root: Path, weights: Path, store: Path) -> list[float]:
    """Measure the seconds from batch to batch of the real stage, after the first ones."""
    times: list[float] = []
    real = ImageRows.write

    def write(rows: ImageRows, missing: Sequence[Shard], load: Callable[[], Compute], **how: Any) -> None:
        real(rows, missing, lambda: _stamped(load(), times), **how)

    try:
        ImageRows.write = write  # type: ignore[method-assign,assignment]
        run_stage(
            STAGE,
            params=EncodeImagesParams(backbone=_BACKBONE, image_size=_IMAGE_SIZE),
            inputs=EncodeImagesInputs(manifest=manifest, image_root=root, init_from=weights),
            runtime=EncodeImagesRuntime(device="cpu", workers=1, batch_size=_BATCH_SIZE),
            context=context_of(Store(store), stages=STAGES),
        )
    finally:
        ImageRows.write = real  # type: ignore[method-assign]
    return [later - before for before, later in pairwise(times)][_WARM - 1 :]


def _stamped(compute: Compute, times: list[float]) -> Compute:
    """Note when each batch has been computed and asked for again."""

    def stamped(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        for result in compute(batches):
            times.append(time.perf_counter())
            yield result

    return stamped
