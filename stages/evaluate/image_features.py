"""One pass of a student over the pictures of a set, by one process or by several that share them."""

import contextlib
import errno
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file, write_atomic_by
from pipeline.peers import agreed
from pipeline.progress import progress
from stages.device import choose_device
from stages.evaluate.checkpoints import LoadedStudent
from stages.image_batches import EvalPictures, collate, worker_errors
from stages.image_set import ImageSet
from stages.ranks import Ranks
from stages.student import Student
from stages.trained_student import load_student
from stages.transforms import EvalTransform, Normalize
from stages.workers import num_workers

_Tensors = dict[str, Tensor]


def student_embeddings(
    student: LoadedStudent,
    images: ImageSet,
    *,
    out: Path,
    scratch: Path,
    ranks: Ranks,
    device: str,
    workers: int,
    batch_size: int,
) -> dict[int, str]:
    """Embed every picture that can be read, in fp32, and write features and embeddings.

    Each rank embeds a run of the set; the first joins what they leave in the scratch folder.

    Writes: a safetensors file with ``embeddings`` (readable, dim), float32, ``rows`` (readable,), int64, and
        ``features`` (readable, feature_dim), float32, which are left out where they are the embeddings.

    Args:
        student: whose weights are loaded.
        images: the set.
        out: the file.
        scratch: folder of the ranks' parts, the same for all; removed in the end.
        ranks: who embed together.
        device: where the student runs.
        workers: processes that read pictures; -1 chooses.
        batch_size: pictures at a time.

    Returns:
        Why each picture, by its place in the set, could not be read; all of them, on every rank.

    Raises:
        ProtoRKDError: the weights are gone or do not fit the student, or no picture can be read; on all ranks.
    """
    try:
        with agreed(ranks):
            own = range(*(len(images.paths) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1)))
            tensors, own_rejected = _embed(
                student,
                images,
                own,
                device=device,
                workers=num_workers(workers),
                batch_size=batch_size,
                is_shown=ranks.is_first,
            )
            if not ranks.is_first:
                _save(tensors, _part_path(scratch, ranks.rank, ranks.size))
        rejected = {row: reason for part in ranks.gather_objects(own_rejected) for row, reason in part.items()}
        if len(rejected) == len(images.paths):
            raise ProtoRKDError(
                f"A set must have readable pictures; got none of {len(images.paths)} below {images.root}."
            )
        if ranks.is_first:
            _save(tensors if ranks.size == 1 else _joined(tensors, scratch, num_ranks=ranks.size), out)
    finally:
        if ranks.is_first:
            shutil.rmtree(scratch, ignore_errors=True)
    return rejected


@torch.inference_mode()
def _embed(
    student: LoadedStudent,
    images: ImageSet,
    own: Sequence[int],
    *,
    device: str,
    workers: int,
    batch_size: int,
    is_shown: bool,
) -> tuple[_Tensors, dict[int, str]]:
    """Embed some of the pictures; on the CPU, under the names of the file."""
    place = choose_device(device)
    model = _load(student, place)
    preprocessing = student.config.preprocessing
    normalize = Normalize(preprocessing, place)
    loader = DataLoader(
        EvalPictures(images, EvalTransform(preprocessing)),
        sampler=own,
        batch_size=batch_size,
        num_workers=min(workers, -(-len(own) // batch_size)),
        collate_fn=collate,
        pin_memory=place.type == "cuda",
    )
    has_head = not isinstance(model.head, torch.nn.Identity)
    tensors = {
        "embeddings": torch.empty(len(own), model.embedding_dim),
        "rows": torch.empty(len(own), dtype=torch.int64),
    }
    if has_head:
        tensors["features"] = torch.empty(len(own), model.feature_dim)
    rejected: dict[int, str] = {}
    num = 0
    shown = (
        progress("embedding pictures", total=len(own), unit="pictures") if is_shown else contextlib.nullcontext(_ignore)
    )
    with worker_errors(), shown as advance:
        for batch in loader:
            rejected |= batch.rejected
            if len(batch.rows):
                to = slice(num, num := num + len(batch.rows))
                features = model.features(normalize(batch.images))
                if has_head:
                    tensors["features"][to] = features.float().cpu()
                tensors["embeddings"][to] = model.head(features).float().cpu()
                tensors["rows"][to] = batch.rows
            advance(len(batch.rows) + len(batch.rejected))
    return {name: tensor[:num] for name, tensor in tensors.items()}, rejected


def _load(student: LoadedStudent, place: torch.device) -> Student:
    """Load the very weights that were identified, also where a draft became an artifact meanwhile."""
    for weights in student.places:
        try:
            if hash_file(weights) == student.sha256:
                return load_student(student.config, weights, device=place)
        except OSError:
            continue
        except ProtoRKDError:
            if weights.exists():
                raise
    raise ProtoRKDError(
        f"{student.weights} must hold the weights that were found there; it is gone, or holds others. Run evaluate "
        "again, and distill again with the same options and --force if that does not help."
    )


def _joined(own: _Tensors, scratch: Path, *, num_ranks: int) -> _Tensors:
    """Put the other ranks' rows, which they have left as files, behind the first one's."""
    try:
        others = [safetensors.torch.load_file(_part_path(scratch, rank, num_ranks)) for rank in range(1, num_ranks)]
    except (OSError, safetensors.SafetensorError) as error:
        raise ProtoRKDError(
            f"{scratch} must be one folder for all processes; {error}. Give --store a folder that all of them share."
        ) from error
    return {name: torch.cat([tensor, *(other[name] for other in others)]) for name, tensor in own.items()}


def _save(tensors: _Tensors, path: Path) -> None:
    def write(partial: Path) -> None:
        try:
            safetensors.torch.save_file(tensors, partial)  # which, unlike save, makes no copy in memory
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error

    write_atomic_by(path, write)


def _part_path(scratch: Path, rank: int, num_ranks: int) -> Path:
    return scratch / f"part-{rank}-of-{num_ranks}.safetensors"


def _ignore(_units: int) -> None:
    """Show nothing: the first process speaks for all."""
