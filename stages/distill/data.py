"""The pictures of training, in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.image_batches import Batch, collate
from stages.image_set import ImageSet
from stages.images import ImageRejected, open_image
from stages.transforms import TrainTransform

Request = tuple[int, int]  # epoch, pair


class PairImages(Dataset[tuple[int, Tensor | str]]):
    """A picture for each request of an epoch and a pair, cropped the same on every run.

    Args:
        images: one picture a pair.
        transform: what training does to them.
        seed: of the crops.
    """

    def __init__(self, images: ImageSet, transform: TrainTransform, *, seed: int) -> None:
        self._images = images
        self._transform = transform
        self._seed = seed

    def path_of(self, pair: int) -> str:
        """The path of a pair's picture, as its manifest writes it."""
        return self._images.paths[pair]

    def __getitem__(self, request: Request) -> tuple[int, Tensor | str]:
        """Read one picture: the pair, and the picture as (3, size, size) uint8 or why there is none."""
        epoch, pair = request
        try:
            image = open_image(self._images.full_path(pair))
        except ImageRejected as error:
            return pair, error.reason
        [seed] = np.random.SeedSequence([self._seed, epoch, pair]).generate_state(1)
        return pair, self._transform(image, seed=int(seed))


def epoch_order(num_pairs: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of pairs in an epoch: a function of the seed and the epoch, on any machine.

    Shapes:
        returns: (num_pairs,), int64: every pair once.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_pairs)


class BatchRequests:
    """Requests of all batches from a step on, across epochs, so that reading never pauses between them.

    Args:
        pairs: the pairs to train on.
        batch_size: pairs in a batch. The last one of an epoch may be smaller; a single pair that is left joins it.
        epochs: in all.
        seed: of the order.
        start_step: the first batch to request, counted over all epochs.
    """

    def __init__(
        self, pairs: NDArray[np.int64], *, batch_size: int, epochs: int, seed: int, start_step: int = 0
    ) -> None:
        self._pairs = pairs
        self._batch_size = batch_size
        self._epochs = epochs
        self._seed = seed
        self._start_step = start_step
        self.steps_per_epoch = max(1, -(-(len(pairs) - 1) // batch_size))

    def __len__(self) -> int:
        return self._epochs * self.steps_per_epoch - self._start_step

    def __iter__(self) -> Iterator[list[Request]]:
        first_epoch, first_batch = divmod(self._start_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self._epochs):
            order = self._pairs[epoch_order(len(self._pairs), seed=self._seed, epoch=epoch)]
            for batch in range(first_batch if epoch == first_epoch else 0, self.steps_per_epoch):
                stop = len(order) if batch == self.steps_per_epoch - 1 else (batch + 1) * self._batch_size
                chosen = order[batch * self._batch_size : stop]
                yield [(epoch, int(pair)) for pair in chosen]


def load_batches(dataset: PairImages, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterable[Batch]:
    """Read the requested batches, in order, ahead of training."""
    return DataLoader(
        dataset,
        batch_sampler=requests,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its own, or starting to read would move the global one, from which dropout draws
    )
