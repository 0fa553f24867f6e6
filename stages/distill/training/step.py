"""One optimizer step: images and targets of one or more micro-batches, on one process or many."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stages.components.compute.device import send
from stages.components.compute.distributed import Ranks
from stages.distill.data.device_pipeline import DevicePreprocess
from stages.distill.objectives import WeightedObjectives
from stages.distill.training.optimizer import trained_parameters
from stages.distill.training.profiler import Clock


class TrainingStep:
    """Forward, loss over the batch of all ranks, backward; then, once a step, the optimizer.

    Args:
        student: trained in place.
        objectives: trained in place where they have parameters; every rank computes them over the gathered batch, so
            that their gradients and their state are the same on all ranks, up to kernels that add in no fixed order.
        optimizer: over the parameters of both.
        ranks: who trains together.
        prepare: from bytes to the student's input.
        in_precision: a maker of contexts for the student's matrix products.
        loss_scaler: for fp16.
        max_grad_norm: longer gradients are scaled down to this norm; 0 leaves them.
        clock: told of the parts of a step.
    """

    def __init__(
        self,
        student: nn.Module,
        objectives: WeightedObjectives,
        optimizer: torch.optim.Optimizer,
        *,
        ranks: Ranks,
        prepare: DevicePreprocess,
        in_precision: Callable[[], AbstractContextManager[object]],
        loss_scaler: torch.amp.GradScaler,
        max_grad_norm: float,
        clock: Clock,
    ) -> None:
        self._student = student
        self._forward = _parallel(student, ranks)
        self._objectives = objectives
        self._optimizer = optimizer
        self._ranks = ranks
        self._prepare = prepare
        self._in_precision = in_precision
        self._loss_scaler = loss_scaler
        self._max_grad_norm = max_grad_norm
        self._clock = clock
        self._parameters = trained_parameters(student, objectives)
        self._synced = True
        self.has_gradients = False

    def accumulate(
        self,
        images: Tensor,
        *,
        seeds: Tensor,
        sizes: Tensor,
        teacher: Tensor,
        rows: Tensor,
        labels: Tensor,
        counts: Sequence[int],
        share: float,
        last: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a micro-batch, of which every rank gives its part.

        Args:
            images: this rank's part.
            seeds: of their augmentation.
            sizes: of images that are still to be resized.
            teacher: targets of this rank's part.
            rows: their caption rows.
            labels: their labels.
            counts: how many images each rank gives.
            share: what the micro-batch's loss counts for in the step; all of a step add up to 1.
            last: whether the optimizer follows; until then ranks need not agree on gradients.

        Shapes:
            images, seeds, sizes: as `DevicePreprocess` takes them.
            teacher: (own, dim), float.
            rows, labels: (own,), int64.
            returns: the loss, (), float32, and its terms by name; the same on all ranks.
        """
        with contextlib.ExitStack() as stack:
            if not last and isinstance(self._forward, DistributedDataParallel):
                stack.enter_context(self._forward.no_sync())
            with self._clock.part("copy, augment, normalise"), self._in_precision():
                inputs = self._prepare(images, seeds, sizes)
            with self._clock.part("student forward"), self._in_precision():
                embeddings = self._forward(inputs)
            with self._clock.part("objectives"):
                device = embeddings.device
                student, teacher, rows, labels = self._ranks.gather_together(
                    [embeddings.float(), teacher, send(rows, device), send(labels, device)], counts=counts
                )
                loss, terms = self._objectives(student=student, teacher=teacher, rows=rows, labels=labels)
            with self._clock.part("backward"):
                self._loss_scaler.scale(share * loss).backward()
        self._synced, self.has_gradients = last, True
        return loss.detach(), terms

    def update(self, lr: float) -> Tensor:
        """Move the parameters by what has been accumulated; give the gradient's norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if not self._synced:  # the step's last micro-batch was left out, and it was to bring the ranks together
            self._ranks.average_gradients(self._student)
            self._synced = True
        self._loss_scaler.unscale_(self._optimizer)
        grad_norm = nn.utils.get_total_norm([one.grad for one in self._parameters if one.grad is not None])
        if self._max_grad_norm:  # else scaling by 1 would be one more pass over all gradients
            nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, grad_norm)
        self._loss_scaler.step(self._optimizer)
        self._loss_scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.has_gradients = False
        return grad_norm


def seed_step(*, seed: int, step: int, rank: int) -> None:
    """Make dropout a function of seed, step and rank, so that a resumed step draws what an undisturbed one draws."""
    [number] = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(number >> np.uint64(1)))


def _parallel(student: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.size == 1:
        return student
    device = next(student.parameters()).device
    forward = DistributedDataParallel(
        student,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=ranks.group,
        gradient_as_bucket_view=True,
    )
    # Steps read no running statistics that they move: all ranks are given the first one's where those are read. Set
    # here, for the argument's name changes between releases of torch.
    forward.broadcast_buffers = False
    return forward
