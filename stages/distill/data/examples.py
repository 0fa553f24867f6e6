"""The examples that training draws: images, each with the captions that are its targets."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows it by
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.compute.device import send
from stages.components.compute.keyed_random import keyed_numbers

CAPTIONS_PER_IMAGE = ("each", "sample", "mean", "first")

Rows = NDArray[np.int64]


class Examples:
    """Images with one caption or more, numbered from 0; built by `Examples.of`.

    Args:
        pairs: Pair whose image and label each example has, by its place in the pair index.
        caption_rows: Caption rows of all examples, one example's after the other's.
        offsets: Places where the captions of each example begin, and where the last end.
        labels: Label of each example.
        mean: Whether a target is the mean of an example's captions, or one of them.
        seed: Seed of the draw of a caption.

    Shapes:
        pairs, labels: (examples,), int64; a label is -1 where there is none.
        caption_rows: (captions,), int64.
        offsets: (examples + 1,), int64.
    """

    def __init__(
        self, *, pairs: Rows, caption_rows: Rows, offsets: Rows, labels: Rows, mean: bool = False, seed: int = 0
    ) -> None:
        self.pairs = pairs
        self._caption_rows, self._offsets, self._labels = map(torch.from_numpy, (caption_rows, offsets, labels))
        self._mean = mean
        self._seed = seed

    @classmethod
    def of(
        cls,
        table: pa.Table,
        usable_pairs: Rows,
        *,
        captions_per_image: str = "each",
        labels: Rows | None = None,
        seed: int = 0,
    ) -> "Examples":
        """Make examples of a pair index.

        Args:
            table: Pair index; pairs whose image has the same path show the same image.
            usable_pairs: Pairs to make examples of, ascending; an image of which no pair is among them is left out.
            captions_per_image: "each" makes every pair an example; the others make one of every image, whose target is
                one of its captions, drawn anew in every epoch ("sample"), the mean of its captions as unit vectors
                ("mean"), or its first caption ("first").
            labels: Label of each pair of the index, -1 where there is none; an image has that of its first usable pair.
            seed: Seed of the draw of a caption.

        Raises:
            ProtoRKDError: no such way to take captions.
        """
        if captions_per_image not in CAPTIONS_PER_IMAGE:
            known = ", ".join(CAPTIONS_PER_IMAGE)
            raise ProtoRKDError(f"--captions-per-image must be one of {known}; got {captions_per_image!r}.")
        order, starts = usable_pairs, np.arange(len(usable_pairs))
        if captions_per_image != "each":
            images, _ = _number_images(table, usable_pairs)
            by_image = np.argsort(images, kind="stable")
            order, starts = usable_pairs[by_image], np.flatnonzero(np.diff(images[by_image], prepend=-1))
        pairs = order[starts]
        if captions_per_image == "first":
            order, starts = pairs, np.arange(len(pairs))
        return cls(
            pairs=pairs,
            caption_rows=table["caption_row"].to_numpy()[order],
            offsets=np.append(starts, len(order)),
            labels=np.full(len(pairs), -1) if labels is None else labels[pairs],
            mean=captions_per_image == "mean",
            seed=seed,
        )

    @property
    def num(self) -> int:
        """Number of examples."""
        return len(self.pairs)

    def caption_rows(self, examples: Tensor, epoch: int) -> Tensor:
        """Choose each example's caption in an epoch: a function of the seed, the epoch and the example's pair.

        An example whose target is the mean of its captions has the first.

        Shapes:
            examples: (batch,), int64, on the CPU.
            returns: the same.
        """
        if len(self._caption_rows) == self.num:
            return self._caption_rows[examples]
        starts, counts = self._spans(examples)
        if self._mean:
            return self._caption_rows[starts]
        draws = keyed_numbers([self._seed, epoch], self.pairs[examples.numpy()])
        return self._caption_rows[starts + torch.from_numpy(draws) % counts]

    def captions(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """List all captions of examples.

        Shapes:
            examples: (batch,), int64, on the CPU.
            returns: caption rows, (sum of counts,), one example's after the other's; counts, (batch,); both int64.
        """
        starts, counts = self._spans(examples)
        shifts = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
        return self._caption_rows[shifts + torch.arange(len(shifts))], counts

    def targets(self, examples: Tensor, epoch: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """Look up the embeddings that students should give to examples in an epoch.

        Args:
            examples: Numbers of the examples.
            epoch: Epoch, counted from 0.
            gather: Looks up the embeddings, (rows, dim), of caption rows, (rows,).

        Shapes:
            examples: (batch,), int64, on the CPU.
            returns: (batch, dim), on the device and of the type that gather gives.
        """
        if not self._mean:
            return gather(self.caption_rows(examples, epoch))
        rows, counts = self.captions(examples)
        embeddings = F.normalize(gather(rows), dim=1)
        starts = send(counts.cumsum(0) - counts, embeddings.device)
        places = torch.arange(len(rows), device=embeddings.device)
        return F.embedding_bag(places, embeddings, starts, mode="mean")

    def labels(self, examples: Tensor) -> Tensor:
        """Look up the labels of examples: (batch,), int64, -1 where there is none."""
        return self._labels[examples]

    def _spans(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        starts = self._offsets[examples]
        return starts, self._offsets[examples + 1] - starts


def split_validation(table: pa.Table, pairs: Rows, *, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out a share of the images, each with all its pairs.

    Whether an image is held out depends on the seed and on its path alone, so that it stays on its side when other
    rows come, go or change places. Images with the same caption may come to lie on different sides.

    Args:
        table: Pair index.
        pairs: Pairs to split, ascending.
        fraction: Share of the images that is held out, about; 0 holds out none.
        seed: Seed of the choice; another one holds out other images.

    Returns:
        The pairs to train on and those that are held out, ascending.

    Raises:
        ProtoRKDError: fewer than 2 images are left to train on, or fewer than 2 are held out though some should be.
    """
    if not fraction:
        return pairs, pairs[:0]
    images, paths = _number_images(table, pairs)
    is_held_out = np.array([_place(path, seed) < fraction for path in paths.to_pylist()], dtype=np.bool_)
    num_held_out = int(is_held_out.sum())
    if min(num_held_out, len(paths) - num_held_out) < 2:
        raise ProtoRKDError(
            f"--validation-fraction must leave 2 images or more to train on and hold out 2 or more; got {fraction:g}, "
            f"which holds out {num_held_out} of {len(paths)}. Choose another share, or 0 for no validation."
        )
    return pairs[~is_held_out[images]], pairs[is_held_out[images]]


def _number_images(table: pa.Table, pairs: Rows) -> tuple[Rows, pa.LargeStringArray]:
    """Number the images of pairs by first appearance: (pairs,), int64; and give their paths."""
    encoded = table["image"].combine_chunks().take(pa.array(pairs)).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _place(path: str, seed: int) -> float:
    """Hash a path and the seed to a number from 0 to 1."""
    digest = hashlib.sha256(f"{seed}\0{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
