"""Negatives from beyond the batch: a queue of earlier embeddings, or rows drawn from the corpus."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from data_schemas.errors import ProtoRKDError
from stages.components.compute.device import send
from stages.distill.objectives.parts.corpus import Corpus
from stages.distill.objectives.parts.embeddings import unit_rows

# Rows of the batch that are scored at once: with 65,536 keys, one tensor of scores is 16 MiB in float32. Larger ones
# come fresh from the system each time on a CPU, page by page; a GPU takes four times as many.
_BLOCK_ROWS = 64

NEGATIVES = ("queue", "corpus")


class EmbeddingQueue(nn.Module):
    """First in, first out: the last embeddings that were given to `advance`, overwritten in place.

    No copy is made when embeddings enter, so whatever needs the queue as it was must be done by then, gradients
    included: take them with `mean_over_rows`.

    Args:
        rows: What the queue starts with, and so its size; becomes its memory.

    Shapes:
        rows: (queue_size, dim), float32, unit length.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # the slot of the oldest row

    def keys(self) -> tuple[Tensor, None]:
        """Return the queue's own memory, (queue_size, dim), in no order, and None: corpus rows are not kept."""
        return self.rows, None

    @torch.no_grad()
    def advance(self, embeddings: Tensor) -> None:
        """Put embeddings, (batch, dim), in the place of the oldest; of more than fit, the last remain."""
        size = len(self.rows)
        newest = embeddings[-size:].to(self.rows.dtype)
        slots = (self.pointer + torch.arange(len(newest), device=self.rows.device)) % size
        self.rows.index_copy_(0, slots, newest)
        self.pointer.add_(len(newest)).remainder_(size)


class StepCount(nn.Module):
    """Number of steps that a module has taken, part of its state; on the CPU, where reading it waits for nothing."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def steps_taken(self) -> int:
        """The number, read from the CPU's memory without an operation of torch."""
        return int(self.step.numpy())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        step = self.step
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.step = step
        return self


class CorpusDraw(StepCount):
    """Other rows of the corpus at every step, all exact: the teacher is constant, so none of them is ever stale.

    A draw follows from the number of steps taken, so all processes and a resumed run see the same. No row comes twice
    in a draw, and each is as likely as any other. A corpus no larger than a draw is used whole.

    Args:
        corpus: Where rows come from.
        size: Rows in a draw.
    """

    whole: Tensor | None

    def __init__(self, corpus: Corpus, size: int) -> None:
        super().__init__()
        self._corpus = corpus
        self._size = size
        fits = corpus.num_captions <= size
        whole = unit_rows(corpus.gather(torch.arange(corpus.num_captions))) if fits else None
        self.register_buffer("whole", whole, persistent=False)

    @property
    def size(self) -> int:
        """Number of rows in a draw."""
        return min(self._size, self._corpus.num_captions)

    def keys(self) -> tuple[Tensor, Tensor]:
        """Return this step's unit rows, (size, dim), float32, and which of the corpus they are, (size,), int64."""
        if self.whole is not None:
            return self.whole, torch.arange(len(self.whole), device=self.whole.device)
        rows = draw_rows(self._corpus.num_captions, self._size, seed=self.steps_taken)
        keys = unit_rows(self._corpus.gather(rows))
        return keys, send(rows, keys.device)

    def advance(self, embeddings: Tensor) -> None:  # noqa: ARG002 - called as the queue is
        """Go on to the next draw, whatever the batch was."""
        self.step.add_(1)


def build_negatives(
    objective: str, *, negatives: str, queue_size: int, dim: int, corpus: Corpus | None
) -> EmbeddingQueue | CorpusDraw:
    """Make the negatives that ``--loss-option OBJECTIVE.negatives`` asks for.

    Args:
        objective: Name that errors give.
        negatives: "queue" or "corpus".
        queue_size: Rows to compare with.
        dim: Their width.
        corpus: Needed for "corpus"; a queue starts with a sample of it where there is one.

    Raises:
        ProtoRKDError: If negatives is something else, or is "corpus" without one, or queue_size is below 1.
    """
    if negatives not in NEGATIVES:
        raise ProtoRKDError(f"negatives of {objective} must be one of {', '.join(NEGATIVES)}; got {negatives!r}.")
    if negatives == "queue":
        return EmbeddingQueue(starting_rows(objective, size=queue_size, dim=dim, corpus=corpus))
    _check_queue_size(objective, queue_size)
    if corpus is None:
        raise ProtoRKDError(
            f"negatives of {objective} must be 'queue' where no corpus of teacher embeddings is given; got 'corpus'. "
            "Pass corpus=, or leave the option out."
        )
    return CorpusDraw(corpus, queue_size)


def starting_rows(objective: str, *, size: int, dim: int, corpus: Corpus | None) -> Tensor:
    """Fill a new queue: from the corpus, always the same sample, or with random directions where there is none.

    A corpus smaller than the queue is repeated. Random directions come from torch's global generator.

    Raises:
        ProtoRKDError: If size is below 1.

    Shapes:
        returns: (size, dim), float32, unit length.
    """
    _check_queue_size(objective, size)
    if corpus is None:
        return unit_rows(torch.randn(size, dim))
    shuffled = torch.randperm(corpus.num_captions, generator=torch.Generator().manual_seed(0))
    return unit_rows(corpus.gather(shuffled[torch.arange(size) % len(shuffled)]))


def draw_rows(num_rows: int, size: int, *, seed: int) -> Tensor:
    """Draw row numbers without repetition, each with the same probability, in time that depends on ``size`` alone.

    One row from each of ``size`` equal strips, then all turned by a random shift: strips of unequal width, which
    division leaves, would favour some rows.

    Shapes:
        returns: (size,), int64, from 0 to num_rows - 1.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = torch.arange(size + 1) * num_rows // size
    within = torch.rand(size, generator=generator, dtype=torch.float64) * edges.diff()
    shift = torch.randint(num_rows, (1,), generator=generator)
    return (edges[:-1] + within.long() + shift) % num_rows


def mean_over_rows(row_losses: Callable[[Tensor, slice], Tensor], student: Tensor) -> Tensor:
    """Average a loss over the rows of a batch, and take its gradient at once, a block of rows at a time.

    On return no temporary is left but the gradient, (batch, dim), and whatever the losses were computed from may
    change in place. Differentiable once.

    Args:
        row_losses: From some rows of ``student``, and which of the batch they are, to one loss a row. Every row's
            depends on that row alone, and nothing else in it gets a gradient.
        student: (batch, dim).

    Shapes:
        returns: (), of the student's dtype.
    """
    with_gradient = torch.is_grad_enabled() and student.requires_grad
    mean: Tensor = _MeanOverRows.apply(student, row_losses, with_gradient)
    return mean


class _MeanOverRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, row_losses: Callable[[Tensor, slice], Tensor], with_gradient: bool
    ) -> Tensor:
        mean = student.new_zeros(())
        gradients: list[Tensor] = []
        size = 4 * _BLOCK_ROWS if student.device.type == "cuda" else _BLOCK_ROWS
        for start in range(0, len(student), size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(with_gradient):
                block = student[part].detach().requires_grad_(with_gradient)
                share = row_losses(block, part).sum() / len(student)
            if with_gradient:
                gradients += torch.autograd.grad(share, block)
            mean += share.detach()
        if with_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_mean * gradient, None, None


def _check_queue_size(objective: str, queue_size: int) -> None:
    if queue_size < 1:
        raise ProtoRKDError(f"queue_size of {objective} must be at least 1; got {queue_size}. The default is 65536.")
