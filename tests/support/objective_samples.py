"""Helpers of the tests of objectives: a small corpus, and slow second ways to the same numbers."""

import torch
from torch import Tensor


class TableCorpus:
    """A corpus held in a tensor, rows of any length."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @property
    def num_captions(self) -> int:
        return len(self.table)

    def gather(self, rows: Tensor) -> Tensor:
        return self.table[rows]


def unit(rows: Tensor) -> Tensor:
    """Scale rows to length 1, in float64."""
    return rows.double() / rows.double().norm(dim=1, keepdim=True)


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]
