"""Gather near captions in the same batch, where they are the hardest negatives of one another."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.distill.data.batch_order import Order

Rows = NDArray[np.int64]


def neighbour_examples(caption_rows: Rows, neighbours: Rows) -> Rows:
    """Turn the neighbours of captions into those of examples.

    Args:
        caption_rows: Caption of each example; of examples with the same caption, the first stands for it.
        neighbours: Rows of the nearest other captions of each caption, the nearest first; -1 where there are fewer.

    Shapes:
        caption_rows: (examples,), int64.
        neighbours: (captions, num_neighbours), int64.
        returns: (examples, num_neighbours), int64: examples, -1 where a caption has none.
    """
    example_of = np.full(len(neighbours) + 1, -1)  # the last is that of no caption
    example_of[caption_rows[::-1]] = np.arange(len(caption_rows))[::-1]
    return example_of[neighbours[caption_rows]]


def with_neighbours(order: Order, neighbours: Rows, *, sizes: Sequence[int], share: float) -> Iterator[Rows]:
    """Yield the examples of one epoch after the other, each gathered by `gather_neighbours`.

    Args:
        order: Epochs of examples, none of them twice in an epoch.
        neighbours: Nearest examples of each, as `neighbour_examples` gives them.
        sizes: Sizes of the micro-batches of a step, in turn.
        share: Share of a micro-batch that neighbours make up.
    """
    for episode in order():
        yield gather_neighbours(episode, neighbours, sizes=sizes, share=share)


def gather_neighbours(episode: Rows, neighbours: Rows, *, sizes: Sequence[int], share: float) -> Rows:
    """Reorder the examples of an epoch, so that some of each micro-batch are neighbours of the others in it.

    Each micro-batch takes the next examples of the episode, then of their neighbours that are still to come the nearest
    of each, the second nearest, and so on; where neighbours are wanting, the next examples fill it. So towards an
    epoch's end fewer are found.

    Shapes:
        episode: (size,), int64, all different.
        neighbours: (examples, num_neighbours), int64, -1 where there is none.
        returns: (size,), int64: the same examples.
    """
    to_come = np.zeros(len(neighbours) + 1, np.bool_)  # the last is -1's, and never comes
    to_come[episode] = True
    gathered: list[Rows] = []
    place = num_gathered = 0

    def take(examples: Rows) -> None:
        nonlocal num_gathered
        to_come[examples] = False
        gathered.append(examples)
        num_gathered += len(examples)

    def take_next(num: int) -> None:
        nonlocal place
        while num and place < len(episode):
            ahead = episode[place : place + num]
            place += len(ahead)
            found = ahead[to_come[ahead]]
            take(found)
            num -= len(found)

    number = 0
    while num_gathered < len(episode):
        start, size = num_gathered, sizes[number % len(sizes)]
        number += 1
        first = len(gathered)
        take_next(size - int(share * size))
        seeds = np.concatenate(gathered[first:])
        near = neighbours[seeds].T.reshape(-1)  # all nearest ones, then all second nearest ones, ...
        near = near[to_come[near]]
        _, places = np.unique(near, return_index=True)
        take(near[np.sort(places)][: start + size - num_gathered])
        take_next(start + size - num_gathered)
    return np.concatenate(gathered)
