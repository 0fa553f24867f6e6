"""The images of training, in an order that depends on the seed and the epoch alone."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stages.components.compute.keyed_random import keyed_numbers
from stages.components.compute.shared_memory import share
from stages.components.images.augmentation import Augment
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.packed_image_set import mean_bytes
from stages.components.images.transforms import TrainCrop
from stages.components.loading.batch import Batch, collate, collate_unsized
from stages.components.loading.image_loader import ImageLoader
from stages.components.loading.worker_trace import no_line
from stages.distill.data.batch_order import BatchRequests, Request
from stages.distill.data.buffer_pool import ROOM, BufferPool

_Cropped = TypeVar("_Cropped")

_CROP, _AUGMENT = range(2)  # purposes of an image's random numbers


class ExampleImages(Dataset[tuple[int, Tensor | str]]):
    """Images by epoch and example, augmented the same on every run.

    Args:
        images: Image of each pair.
        pairs: Pair whose image each example shows.
        crop: Crop that is taken of an image.
        augment: Augmentation of a batch; None leaves it to the training's device.
        seed: Seed of crops and augmentation.
        resized: Whether crops are resized here, or left to the training's device; then so is augmentation.

    Shapes:
        pairs: (examples,), int64.
    """

    def __init__(
        self,
        images: ImageSet,
        pairs: NDArray[np.int64],
        crop: TrainCrop,
        augment: Augment | None,
        *,
        seed: int,
        resized: bool = True,
    ) -> None:
        self._images = images
        self._pairs = torch.from_numpy(pairs)
        self._crop, self._augment = crop, augment
        self._seed = seed
        self._resized = resized
        self.line = no_line()

    def shared(self) -> "ExampleImages":
        """Copy these with their large tensors in memory that processes share."""
        twin = copy.copy(self)
        twin._images = self._images.shared()
        twin._pairs = share(self._pairs)
        return twin

    @property
    def image_bytes(self) -> float:
        """Approximate number of bytes of an image in a batch."""
        return self._crop.image_bytes if self._resized else self._crop.unsized_bytes(mean_bytes(self._images))

    def path_of(self, example: int) -> str:
        """Look up the path of an example's image, as its manifest writes it."""
        return self._images.paths[int(self._pairs[example])]

    def batches(self, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterable[Batch]:
        """Read the requested micro-batches, as `load_batches` does."""
        return load_batches(self, requests, workers=workers, pin_memory=pin_memory)

    def __getitem__(self, request: Request) -> tuple[int, Tensor | str]:
        """Read one image: the example, and the image as (3, size, size) uint8 or why there is none."""
        [sample] = self._read([request], self._crop)
        return sample

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        """Read a batch of one epoch, with the seeds of its augmentation, or augmented already."""
        self._images.read_ahead([int(self._pairs[example]) for _, example in requests])
        if self._resized:
            batch = collate(self._read(requests, self._crop))
        else:
            batch = collate_unsized(self._read(requests, self._crop.unsized))
        seeds = torch.from_numpy(self._seeds(requests[0][0], self._pairs[batch.rows].numpy(), _AUGMENT))
        if self._augment is None:
            return dataclasses.replace(batch, seeds=seeds)
        return dataclasses.replace(batch, images=self._augment(batch.images, seeds))

    def _read(self, requests: Sequence[Request], crop: Callable[..., _Cropped]) -> list[tuple[int, _Cropped | str]]:
        examples = [example for _, example in requests]
        pairs = self._pairs[examples].numpy()
        seeds = self._seeds(requests[0][0], pairs, _CROP)
        samples: list[tuple[int, _Cropped | str]] = []
        for example, pair, seed in zip(examples, pairs.tolist(), seeds.tolist(), strict=True):
            self.line[-1] = example
            try:
                samples.append((example, crop(self._images.open(pair), seed=seed)))
            except ImageRejected as error:
                samples.append((example, error.reason))
        return samples

    def _seeds(self, epoch: int, pairs: NDArray[np.int64], purpose: int) -> NDArray[np.int64]:
        return keyed_numbers([self._seed, epoch, purpose], pairs)


def load_batches(dataset: ExampleImages, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterable[Batch]:
    """Read the requested micro-batches, in order, ahead of training."""
    images = dataset.shared() if workers else dataset
    hand_over = BufferPool() if pin_memory else _as_it_is  # pinning copies the images and frees their memory
    return ImageLoader(
        images,
        workers=workers,
        pin_memory=pin_memory,
        batches=requests,
        batch_bytes=max(requests.usual_sizes) * dataset.image_bytes * (ROOM if pin_memory else 1),
        collate_fn=hand_over,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
