"""The pictures of training, in an order that depends on the seed and the epoch alone."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data_schemas.errors import ProtoRKDError
from stages.at_hand import no_line
from stages.augmentation import Augment
from stages.image_batches import Batch, collate, collate_unsized
from stages.image_loading import ImageLoader
from stages.image_set import ImageSet
from stages.images import ImageRejected
from stages.packed_image_set import mean_bytes
from stages.random_numbers import keyed_numbers
from stages.shared_names import share
from stages.shared_slabs import ROOM, Slabs
from stages.transforms import TrainCrop

Request = tuple[int, int]  # epoch, example

_Cropped = TypeVar("_Cropped")

_CROP, _AUGMENT = range(2)  # what random numbers of a picture are for


class ExampleImages(Dataset[tuple[int, Tensor | str]]):
    """A picture for each request of an epoch and an example, augmented the same on every run.

    Args:
        images: one picture a pair.
        pairs: whose picture each example shows.
        crop: what of them is looked at.
        augment: what is done to a batch of them here; None leaves that to the training's device.
        seed: of crops and augmentation.
        resized: whether crops are resized here, or left to the training's device; then so is augmentation.

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
        """The same, with what is large in memory that processes share."""
        twin = copy.copy(self)
        twin._images = self._images.shared()
        twin._pairs = share(self._pairs)
        return twin

    @property
    def image_bytes(self) -> float:
        """About how many bytes an image has in a batch."""
        return self._crop.image_bytes if self._resized else self._crop.unsized_bytes(mean_bytes(self._images))

    def path_of(self, example: int) -> str:
        """The path of an example's picture, as its manifest writes it."""
        return self._images.paths[int(self._pairs[example])]

    def __getitem__(self, request: Request) -> tuple[int, Tensor | str]:
        """Read one picture: the example, and the picture as (3, size, size) uint8 or why there is none."""
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


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of examples in an epoch over all of them: a function of the seed and the epoch, on any machine.

    Shapes:
        returns: (num_examples,), int64: every example once.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def episodes(num_examples: int, size: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw the examples of one epoch after the other, without end: a function of the seed, on any machine.

    Episodes walk through one order of all examples after the other, so that every example is seen before any is seen
    again. An episode in which one order ends goes on with those of the next that it does not hold yet.

    Shapes:
        yields: (size,), int64: no example twice.
    """
    rest = np.empty(0, np.int64)
    for walk in itertools.count():
        order = epoch_order(num_examples, seed=seed, epoch=walk)
        if len(rest):
            is_new = np.ones(num_examples, np.bool_)
            is_new[rest] = False
            places = np.flatnonzero(is_new[order])[: size - len(rest)]
            yield np.concatenate([rest, order[places]])
            order = np.delete(order, places)
        end = len(order) - len(order) % size
        yield from order[:end].reshape(-1, size)
        rest = order[end:]


class BatchRequests:
    """Requests of all micro-batches from a step on, across epochs, so that reading never pauses between them.

    A step's batch is cut into its micro-batches, and each of them into a part for every rank, both as evenly as can be
    and in order: the parts of all ranks, one after the other, are what one process alone asks for.

    Args:
        examples: the examples to train on.
        batch_size: examples in a step, over all micro-batches and ranks. The last step of an epoch may have fewer; if
            they are too few for 2 in each part, they join the step before.
        epochs: in all.
        seed: of the order.
        start_step: the first step to request, counted over all epochs.
        episode_size: examples in an epoch; 0 takes all.
        rank: whose part is asked for.
        num_ranks: processes that train together.
        accumulate: micro-batches in a step.

    Raises:
        ProtoRKDError: batches or episodes are too small for 2 examples in each part, or an episode is larger than the
            whole.
    """

    def __init__(
        self,
        examples: NDArray[np.int64],
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        start_step: int = 0,
        episode_size: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        accumulate: int = 1,
    ) -> None:
        least = 2 * num_ranks * accumulate  # batch normalisation needs two
        size = episode_size or len(examples)
        _check_sizes(least, batch_size=batch_size, episode_size=episode_size, num_examples=len(examples))
        self._examples = examples
        self._batch_size = batch_size
        self._epochs = epochs
        self._seed = seed
        self._start_step = start_step
        self._episode_size = size
        self._rank, self._num_ranks = rank, num_ranks
        self.micro_batches_per_step = accumulate
        self.steps_per_epoch = -(-(size - least + 1) // batch_size)
        # Of this rank's part of a micro-batch in all steps but an epoch's last: one size, or two that differ by 1.
        whole_step = np.arange(batch_size if self.steps_per_epoch > 1 else size)
        self.usual_sizes = {len(own) for own in self._own_parts(whole_step)}

    def __len__(self) -> int:
        steps = self._epochs * self.steps_per_epoch - self._start_step
        return steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[Request]]:
        first_epoch, first_step = divmod(self._start_step, self.steps_per_epoch)
        drawn = episodes(len(self._examples), self._episode_size, seed=self._seed)
        for epoch, episode in enumerate(itertools.islice(drawn, first_epoch, self._epochs), start=first_epoch):
            order = self._examples[episode]
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                stop = len(order) if step == self.steps_per_epoch - 1 else (step + 1) * self._batch_size
                for own in self._own_parts(order[step * self._batch_size : stop]):
                    yield [(epoch, example) for example in own.tolist()]

    def _own_parts(self, batch: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for micro_batch in np.array_split(batch, self.micro_batches_per_step):
            yield np.array_split(micro_batch, self._num_ranks)[self._rank]


def load_batches(dataset: ExampleImages, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterable[Batch]:
    """Read the requested micro-batches, in order, ahead of training."""
    pictures = dataset.shared() if workers else dataset
    hand_over = Slabs() if pin_memory else _as_it_is  # what is pinned is copied, and its memory free again
    return ImageLoader(
        pictures,
        workers=workers,
        pin_memory=pin_memory,
        batches=requests,
        batch_bytes=max(requests.usual_sizes) * dataset.image_bytes * (ROOM if pin_memory else 1),
        collate_fn=hand_over,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _check_sizes(least: int, *, batch_size: int, episode_size: int, num_examples: int) -> None:
    reason = "2 examples for each process and micro-batch"
    if batch_size < least:
        raise ProtoRKDError(
            f"--batch-size must be {least} or more, {reason}; got {batch_size}. "
            "Raise it, or start fewer processes, or lower --accumulate-steps."
        )
    if episode_size > num_examples:
        raise ProtoRKDError(
            f"--episode-size must be at most the number of examples, {num_examples}; got {episode_size}. "
            "Lower it, or leave it out: 0 takes all."
        )
    if (episode_size or num_examples) < least:
        found = f"--episode-size {episode_size}" if episode_size else num_examples
        raise ProtoRKDError(
            f"An epoch must have {least} examples or more, {reason}; got {found}. "
            "Give it more, or start fewer processes, or lower --accumulate-steps."
        )
