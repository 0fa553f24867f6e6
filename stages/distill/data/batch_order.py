"""The order of examples and their batches: functions of the seed and the epoch alone."""

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError

Request = tuple[int, int]  # epoch, example

Order = Callable[[], Iterator[NDArray[np.int64]]]
"""Yields the examples of one epoch after the other, without end: places among those to train on, equally many each."""


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle all examples for an epoch: a function of the seed and the epoch, the same on any machine.

    Shapes:
        returns: (num_examples,), int64: every example once.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def episodes(num_examples: int, size: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the examples of one epoch after the other, without end: a function of the seed, the same on any machine.

    Episodes walk through one order of all examples after the other, so that every example is seen before any is seen
    again. An episode in which one order ends goes on with examples of the next that it does not hold yet.

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
    """Request all micro-batches of a training, across epochs, so that reading never pauses between them.

    A step's batch is cut into its micro-batches, and each of them into a part for every rank, both as evenly as can be
    and in order: the parts of all ranks, one after the other, are what one process alone asks for.

    Args:
        examples: Numbers of the examples to train on.
        batch_size: Examples in a step, over all micro-batches and ranks. The last step of an epoch may have fewer; if
            they are too few for 2 in each part, they join the step before.
        epochs: Number of epochs in all.
        seed: Seed of the order.
        episode_size: Examples in an epoch; 0 takes all.
        rank: Rank whose part is requested.
        num_ranks: Processes that train together.
        accumulate: Micro-batches in a step.
        order: Examples of the epochs, as many in each as the other arguments say; None is `episodes`.

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
        episode_size: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        accumulate: int = 1,
        order: Order | None = None,
    ) -> None:
        least = 2 * num_ranks * accumulate  # batch normalisation needs two
        size = episode_size or len(examples)
        _check_sizes(least, batch_size=batch_size, episode_size=episode_size, num_examples=len(examples))
        self._examples = examples
        self._batch_size = batch_size
        self._epochs = epochs
        self._start_step = 0
        self._order = order or partial(episodes, len(examples), size, seed=seed)
        self._rank, self._num_ranks = rank, num_ranks
        self.micro_batches_per_step = accumulate
        self.steps_per_epoch = -(-(size - least + 1) // batch_size)
        # Sizes of this rank's part of a micro-batch, except in an epoch's last step: one, or two that differ by 1.
        whole_step = np.arange(batch_size if self.steps_per_epoch > 1 else size)
        self.usual_sizes = {len(own) for own in self._own_parts(whole_step)}

    def from_step(self, step: int) -> "BatchRequests":
        """Skip the steps before ``step``, counted over all epochs from 0."""
        rest = copy.copy(self)
        rest._start_step = step
        return rest

    def __len__(self) -> int:
        steps = self._epochs * self.steps_per_epoch - self._start_step
        return steps * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[Request]]:
        for epoch, examples in self.parts():
            yield [(epoch, example) for example in examples.tolist()]

    def parts(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the epoch and the examples, (own,), of each micro-batch: what iteration gives, without its tuples."""
        first_epoch, first_step = divmod(self._start_step, self.steps_per_epoch)
        drawn = itertools.islice(self._order(), first_epoch, self._epochs)
        for epoch, episode in enumerate(drawn, start=first_epoch):
            order = self._examples[episode]
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                stop = len(order) if step == self.steps_per_epoch - 1 else (step + 1) * self._batch_size
                for own in self._own_parts(order[step * self._batch_size : stop]):
                    yield epoch, own

    def _own_parts(self, batch: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for micro_batch in np.array_split(batch, self.micro_batches_per_step):
            yield np.array_split(micro_batch, self._num_ranks)[self._rank]


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
