"""One pass of a student over the images of a set, by one process or by several that share them."""

import contextlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from pipeline.peers import fail_together
from pipeline.progress import progress
from stages.components.compute.distributed import Ranks
from stages.components.compute.hang_watch import HangWatch
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform
from stages.components.loading.batch import Batch, EvalImages
from stages.components.loading.image_loader import ImageLoader, batches_of
from stages.components.loading.num_workers import num_workers
from stages.components.student.embedder import ImageEmbedder
from stages.components.student.student import Student
from stages.evaluate.embeddings.image_blocks import Block, save_tensors

_BLOCK_IMAGES = 4096  # what a killed pass loses at most


def student_embeddings(
    load: Callable[[], ImageEmbedder],
    images: ImageSet,
    *,
    out: Path,
    scratch: Path,
    ranks: Ranks,
    device: torch.device,
    workers: int,
    batch_size: int,
) -> dict[int, str]:
    """Embed every image that can be read, in one pass, and write features and embeddings.

    Each rank embeds a run of the set and writes it block by block into the scratch folder, from which a killed pass
    goes on; the first rank joins the blocks.

    Writes: a safetensors file with ``embeddings`` (readable, dim), float32, ``rows`` (readable,), int64, and
        ``features`` (readable, feature_dim), float32, which are left out where they are the embeddings.

    Args:
        load: Loads the student to embed with.
        images: Images of the set.
        out: File to write.
        scratch: Folder of the blocks, the same for all ranks; removed in the end.
        ranks: Processes that embed together.
        device: Device of the student.
        workers: Processes that read images; -1 chooses.
        batch_size: Images in a batch.

    Returns:
        Why images could not be read, by their place in the set; all of them, on every rank.

    Raises:
        ProtoRKDError: the weights are gone or do not fit the student, or no image can be read; on all ranks.
    """
    with fail_together(ranks), HangWatch(is_on=ranks.size > 1) as watch:
        runs = _runs(len(images.paths), ranks.size)
        own_block = _embed(
            load(),
            images,
            runs[ranks.rank],
            scratch=scratch,
            device=device,
            workers=num_workers(workers),
            batch_size=batch_size,
            is_first=ranks.is_first,
            watch=watch,
        )
    rejected = {row: reason for part in ranks.gather_objects(own_block.rejected) for row, reason in part.items()}
    if ranks.is_first:
        if len(rejected) < len(images.paths):
            others = [_read_blocks(scratch, run, batch_size) for run in runs[1:]]
            save_tensors(Block.joined([own_block, *others]).tensors, out)
        shutil.rmtree(scratch, ignore_errors=True)
    if len(rejected) == len(images.paths):
        raise ProtoRKDError(f"A set must have readable images; got none of {len(images.paths)} below {images.root}.")
    return rejected


@torch.inference_mode()
def _embed(
    embed: ImageEmbedder,
    images: ImageSet,
    run: range,
    *,
    scratch: Path,
    device: torch.device,
    workers: int,
    batch_size: int,
    is_first: bool,
    watch: HangWatch,
) -> Block:
    """Embed the blocks of a run that are not in the scratch folder yet, and return the whole run on the CPU."""
    blocks = _blocks(run, batch_size)
    known = [block for block in blocks if Block.is_whole(_path(scratch, block))]
    missing = [block for block in blocks if block not in known]
    to_read = [row for block in missing for row in block]
    to_embed = batches_of(to_read, batch_size)
    to_load = EvalImages(images, EvalTransform(embed.preprocessing))
    loader = ImageLoader(
        to_load,
        workers=min(workers, len(to_embed)),
        pin_memory=device.type == "cuda",
        batches=to_embed,
        batch_bytes=min(batch_size, len(to_read)) * to_load.image_bytes,
    )
    done = len(run) - len(to_read)
    shown = (
        progress("embedding images", total=len(run), unit="images", done=done)
        if is_first
        else contextlib.nullcontext(_ignore)
    )
    with shown as advance:
        embedded_batches = embed.over(watch.over(loader))
        for block in missing:
            parts = [_no_images(embed.model)]
            for batch, features, embeddings in itertools.islice(embedded_batches, -(-len(block) // batch_size)):
                parts.append(_block_of(batch, features, embeddings, embed.model))
                advance(len(batch.rows) + len(batch.rejected))
            embedded = Block.joined(parts)
            if is_first and len(blocks) == 1:
                return embedded
            embedded.write(_path(scratch, block))
    return _read_blocks(scratch, run, batch_size)


def _no_images(model: Student) -> Block:
    tensors = {"embeddings": torch.empty(0, model.embedding_dim), "rows": torch.empty(0, dtype=torch.int64)}
    return Block(tensors | ({"features": torch.empty(0, model.feature_dim)} if _has_head(model) else {}), {})


def _block_of(batch: Batch, features: Tensor, embeddings: Tensor, model: Student) -> Block:
    tensors = {"embeddings": embeddings, "rows": batch.rows}
    return Block(tensors | ({"features": features} if _has_head(model) else {}), batch.rejected)


def _has_head(model: Student) -> bool:
    return not isinstance(model.head, torch.nn.Identity)


def _runs(num: int, size: int) -> list[range]:
    """Split the images into one run per rank."""
    return [range(num * rank // size, num * (rank + 1) // size) for rank in range(size)]


def _blocks(run: range, batch_size: int) -> list[range]:
    """Split a run into blocks of whole batches, so that an image's batch does not depend on what is done already."""
    step = batch_size * max(1, _BLOCK_IMAGES // batch_size)
    return [run[start : start + step] for start in range(0, len(run), step)] or [run]


def _path(scratch: Path, block: range) -> Path:
    return scratch / f"pictures-{block.start}-{block.stop}.safetensors"


def _read_blocks(scratch: Path, run: range, batch_size: int) -> Block:
    try:
        return Block.joined([Block.read(_path(scratch, block)) for block in _blocks(run, batch_size)])
    except (OSError, safetensors.SafetensorError) as error:
        raise ProtoRKDError(
            f"{scratch} must be one folder for all processes; {error}. Give --store a folder that all of them share."
        ) from error


def _ignore(_units: int) -> None:
    """Show nothing: the first process speaks for all."""
