"""Measure retrieval on held-out pairs while the student trains, from cached targets alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.compute.distributed import Ranks
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform
from stages.components.loading.batch import Batch, EvalImages
from stages.components.loading.image_loader import ImageLoader, batches_of
from stages.components.loading.prefetch import prefetch_to_device
from stages.components.metrics.retrieval import retrieval_metrics
from stages.distill.data.held_out import HeldOutImages
from stages.distill.data.targets import Targets
from stages.distill.training.training_device import measuring_device


class ReadHeldOut(Protocol):
    """Reads held-out images, or their features, in batches."""

    def __call__(self, own: Sequence[int], *, pin_memory: bool) -> Iterable[Batch]:
        """Read some images, by their numbers."""


class HeldOutReader:
    """Reads held-out images.

    The processes that read are started anew each time: that costs a fraction of a second, while standing by would cost
    their memory for the whole training.

    Args:
        images: Images to read.
        transform: Transform of evaluation.
        batch_size: Images at a time, on each rank.
        workers: Processes that read images; 0 reads in this one.
    """

    def __init__(self, images: ImageSet, transform: EvalTransform, *, batch_size: int, workers: int) -> None:
        self._images = EvalImages(images, transform)
        self._batch_size, self._workers = batch_size, workers

    def __call__(self, own: Sequence[int], *, pin_memory: bool) -> Iterable[Batch]:
        """Read some images, by their numbers."""
        batches = batches_of(own, self._batch_size)
        workers = min(self._workers, len(batches))
        return ImageLoader(
            self._images,
            workers=workers,
            pin_memory=pin_memory,
            batches=batches,
            batch_bytes=min(self._batch_size, len(own)) * self._images.image_bytes,
        )


class Validation:
    """Measures how well held-out captions find their images, and images their captions.

    Each rank embeds every size-th image; then all hold all embeddings and count the same. No rank waits for another
    before its own part is done.

    Args:
        held_out: Images to look at, and their captions.
        targets: Embeddings of the teacher by caption row, as wide as the student's.
        read: Reads batches of these images, or of their features.
        prepare: Turns what it reads into the student's input.
        in_precision: Makes contexts for the student's matrix products.
        ranks: Ranks that share the work; all of them must call at the same step.
    """

    def __init__(
        self,
        held_out: HeldOutImages,
        *,
        targets: Targets,
        read: ReadHeldOut,
        prepare: Callable[[Tensor], Tensor],
        in_precision: Callable[[], AbstractContextManager[object]],
        ranks: Ranks,
    ) -> None:
        self._held_out = held_out
        self._read, self._prepare = read, prepare
        self._targets, self._in_precision = targets, in_precision
        self._ranks = ranks
        self._num_rejected = 0

    @measuring_device()
    @torch.no_grad()
    def __call__(self, student: nn.Module) -> dict[str, float]:
        """Measure a student as it stands, and leave it as it was.

        Its random numbers and train mode stay. On several ranks it must be the same on all, running statistics
        included, as `Ranks.share_state` makes it.

        Returns:
            The measures of `retrieval_metrics`, named ``validation/...``, with ``validation/images`` and
            ``validation/unreadable_images`` as counts; the same on all ranks.

        Raises:
            ProtoRKDError: fewer than 2 images can be read, or an embedding is NaN or infinite.
        """
        own = range(self._ranks.rank, self._held_out.num, self._ranks.size)
        with _eval_mode(student):
            embeddings, readable, rejected = self._embed(student, own)
        embeddings = self._ranks.gather_rows(embeddings)
        readable = self._ranks.gather_rows(readable).cpu()
        self._check_rejected(self._ranks.gather_objects(rejected))
        row_of_image = torch.full((self._held_out.num,), -1)
        row_of_image[readable] = torch.arange(len(readable))
        caption_image = row_of_image[self._held_out.caption_image]
        usable = caption_image >= 0
        measures = retrieval_metrics(
            image_embeddings=embeddings,
            caption_embeddings=self._targets.gather(self._held_out.caption_rows[usable]),
            caption_image=caption_image[usable],
        )
        counts = {"images": float(len(readable)), "unreadable_images": float(self._num_rejected)}
        return {f"validation/{name}": value for name, value in (measures | counts).items()}

    def _embed(self, student: nn.Module, own: Sequence[int]) -> tuple[Tensor, Tensor, dict[int, str]]:
        device = next(student.parameters()).device
        embeddings = [torch.empty(0, self._targets.dim, device=device)]
        readable = [torch.empty(0, dtype=torch.int64)]
        rejected: dict[int, str] = {}
        for batch in prefetch_to_device(self._read(own, pin_memory=device.type == "cuda"), device):
            rejected |= batch.rejected
            if len(batch.rows):
                with self._in_precision():
                    embedded = student(self._prepare(batch.images))
                embeddings.append(embedded.float())
                readable.append(batch.rows)
        return torch.cat(embeddings), torch.cat(readable).to(device), rejected

    def _check_rejected(self, parts: Sequence[dict[int, str]]) -> None:
        rejected = {image: reason for part in parts for image, reason in part.items()}
        num, paths = self._held_out.num, self._held_out.paths
        if num - len(rejected) < 2:
            first = "".join(f", first {paths[image]}: {reason}" for image, reason in sorted(rejected.items())[:1])
            raise ProtoRKDError(
                f"Validation must have 2 readable images or more; got {num - len(rejected)} of "
                f"{num}{first}. Mend them, or hold out more by --validation-fraction."
            )
        if len(rejected) > self._num_rejected:
            image = min(rejected)
            log.info(
                "distill: %d of %d validation images are left out, first %s: %s",
                len(rejected), num, paths[image], rejected[image],
            )  # fmt: skip
        self._num_rejected = len(rejected)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluate a module, and put each part of it back into the mode it was in: a frozen part may not be training."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
