"""One pass of a student over the pictures of a set."""

from pathlib import Path

import safetensors.torch
import torch
from torch.utils.data import DataLoader

from data_schemas.files import write_atomic
from data_schemas.student_checkpoint import StudentConfig
from pipeline.progress import progress
from stages.device import choose_device
from stages.image_batches import EvalPictures, collate, worker_errors
from stages.image_set import ImageSet
from stages.trained_student import load_student
from stages.transforms import EvalTransform, Normalize
from stages.workers import num_workers


@torch.inference_mode()
def student_embeddings(
    config: StudentConfig,
    weights: Path,
    images: ImageSet,
    *,
    out: Path,
    device: str,
    workers: int,
    batch_size: int,
) -> dict[int, str]:
    """Embed every picture that can be read, in fp32, and write the embeddings.

    Writes: a safetensors file with ``embeddings`` (readable, dim), float32, and ``rows`` (readable,), int64.

    Args:
        config: of the student.
        weights: of the student.
        images: the set.
        out: the file.
        device: where the student runs.
        workers: processes that read pictures; -1 chooses.
        batch_size: pictures at a time.

    Returns:
        Why each picture, by its place in the set, could not be read.

    Raises:
        ProtoRKDError: the weights do not fit the student.
    """
    place = choose_device(device)
    student = load_student(config, weights, device=place)
    normalize = Normalize(config.preprocessing, place)
    loader = DataLoader(
        EvalPictures(images.full_path, len(images.paths), EvalTransform(config.preprocessing)),
        batch_size=batch_size,
        num_workers=min(num_workers(workers), -(-len(images.paths) // batch_size)),
        collate_fn=collate,
        pin_memory=place.type == "cuda",
    )
    embeddings, rows = [torch.empty(0, config.embedding_dim)], [torch.empty(0, dtype=torch.int64)]
    rejected: dict[int, str] = {}
    with worker_errors(), progress("embedding pictures", total=len(images.paths), unit="pictures") as advance:
        for batch in loader:
            rejected |= batch.rejected
            if len(batch.rows):
                embeddings.append(student(normalize(batch.images)).float().cpu())
                rows.append(batch.rows)
            advance(len(batch.rows) + len(batch.rejected))
    tensors = {"embeddings": torch.cat(embeddings), "rows": torch.cat(rows)}
    write_atomic(out, safetensors.torch.save(tensors))
    return rejected
