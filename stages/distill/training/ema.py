"""A running mean of the student's weights, which is often the better student."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stages.components.student.student import Student


class EMA(nn.Module):
    """A second student whose weights follow the first one's as an exponential moving average.

    After its update number n, from 0, the mean has the decay min(decay, (1 + n) / (10 + n)), so that the first random
    weights are soon forgotten. The running statistics of batch normalisation are averaged like weights, for they belong
    to the averaged weights more than the last batch's do; whole numbers are copied. Ranks that start from the same
    weights and take the same steps hold the same mean of weights, without communication; running statistics, which
    may differ between ranks, become the first rank's when the ranks share their state.

    Args:
        student: Student to copy, with its device and memory format, before it is compiled or wrapped.
        decay: Decay of the mean, from 0 to below 1; the mean looks back over about 1 / (1 - decay) steps.
    """

    shadow: Student
    """The averaged student, in eval mode and without gradients."""

    def __init__(self, student: Student, *, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1; got {decay}.")
        layers = [module for module in student.modules() if isinstance(module, nn.SyncBatchNorm)]
        shared = {id(layer.process_group): layer.process_group for layer in layers}  # which cannot be copied
        self.shadow = copy.deepcopy(student, shared).requires_grad_(False).eval()
        self._decay = decay
        self._num_updates = 0
        # Matching means and values, found at the first update: walking through modules takes time.
        self._averaged: list[list[Tensor]] = []
        self._copied: list[list[Tensor]] = []

    @torch.no_grad()
    def update(self, student: nn.Module, *, taken: Tensor | None = None) -> None:
        """Move the mean towards the student, always the same module; call it after every optimizer step.

        Args:
            student: Student that the mean follows.
            taken: Whether the optimizer took the step, known on the device alone; where it did not, the mean stays,
                whatever the student holds. None: it did.

        Shapes:
            taken: (), bool.
        """
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        self._num_updates += 1
        if not self._averaged:
            self._pair_up(student)
        means, values = self._averaged
        if taken is not None:  # chosen, not weighted: 0 times NaN is NaN
            values = [torch.where(taken, value, mean) for mean, value in zip(means, values, strict=True)]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(means, values, None)
        if self._copied[0]:
            torch._foreach_copy_(self._copied[0], self._copied[1])

    def _pair_up(self, student: nn.Module) -> None:
        own, followed = _tensors(self.shadow), _tensors(student)  # by name: a pass may register a weight anew
        pairs = [(own[name], followed[name]) for name in own]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._averaged = [list(side) for side in zip(*floats, strict=True)]
        self._copied = [list(side) for side in zip(*others, strict=True)] or [[], []]

    def get_extra_state(self) -> Tensor:
        """Give the number of updates to the state dict."""
        return torch.tensor(self._num_updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the number of updates back."""
        self._num_updates = int(state)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
