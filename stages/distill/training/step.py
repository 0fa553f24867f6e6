"""One optimizer step: images and targets of one or more micro-batches, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stages.components.compute.device import send
from stages.components.compute.distributed import Ranks
from stages.distill.data.training_data import Prepare
from stages.distill.training.model import TrainedModel
from stages.distill.training.optimizer import set_lr, trained_parameters
from stages.distill.training.profiler import Clock


class TrainingStep:
    """One step of training: forward, loss over the batch of all ranks and backward; then, once a step, the optimizer.

    Every rank computes the objectives over the gathered batch, so that their gradients and their state are the same on
    all ranks, up to kernels that add in no fixed order.

    Args:
        model: Model that is trained in place.
        ranks: Ranks that train together.
        prepare: Turns a batch's images, or features, into the student's input.
        in_precision: Makes contexts for the student's matrix products.
        max_grad_norm: Norm to which longer gradients are scaled down; 0 leaves them.
        clock: Clock that is told of the parts of a step.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        ranks: Ranks,
        prepare: Prepare,
        in_precision: Callable[[], AbstractContextManager[object]],
        max_grad_norm: float,
        clock: Clock,
    ) -> None:
        self._student, self._objectives, self._optimizer = model.student, model.objectives, model.optimizer
        self._loss_scaler = model.loss_scaler
        self._student_on_ranks = _parallel(model.student, ranks)
        self._ranks = ranks
        self._prepare = prepare
        self._in_precision = in_precision
        self._max_grad_norm = max_grad_norm
        self._clock = clock
        self._parameters = trained_parameters(model.student, model.objectives)
        self._synced = True
        self.has_gradients = False

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Take a micro-batch within: `forward`, `loss` and `backward`.

        Args:
            last: Whether the optimizer follows; until then ranks need not agree on gradients.
        """
        student = self._student_on_ranks
        with student.no_sync() if isinstance(student, DistributedDataParallel) and not last else nullcontext():
            yield
        self._synced, self.has_gradients = last, True

    def forward(self, images: Tensor, *, seeds: Tensor, sizes: Tensor) -> Tensor:
        """Embed this rank's part of a micro-batch.

        Args:
            images: Bytes of the images, or features.
            seeds: Seeds of their augmentation.
            sizes: Sizes of images that are still to be resized.

        Shapes:
            images, seeds, sizes: as `prepare` takes them.
            returns: (own, embedding_dim), float.
        """
        with self._clock.part("copy, augment, normalise"), self._in_precision():
            inputs = self._prepare(images, seeds, sizes)
        with self._clock.part("student forward"), self._in_precision():
            embeddings: Tensor = self._student_on_ranks(inputs)
        return embeddings

    def loss(
        self, student: Tensor, *, teacher: Tensor, beside: Mapping[str, Tensor], counts: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the objectives over the micro-batch of all ranks.

        Args:
            student: Embeddings of this rank's images.
            teacher: Targets of this rank's images.
            beside: What else objectives take of this rank's images, by its name there.
            counts: Number of images that each rank has.

        Shapes:
            student: (own, embedding_dim), float.
            teacher: (own, teacher_dim), float.
            beside: (own, ...) each.
            returns: the loss, (), float32, and its terms by name; the same on all ranks.
        """
        with self._clock.part("objectives"):
            device = student.device
            student, teacher, *others = self._ranks.gather_together(
                [student.float(), teacher, *(send(one, device) for one in beside.values())], counts=counts
            )
            loss: tuple[Tensor, dict[str, Tensor]] = self._objectives(
                student=student, teacher=teacher, **dict(zip(beside, others, strict=True))
            )
            return loss

    def backward(self, loss: Tensor, *, share: float) -> None:
        """Add the gradients of a micro-batch to those of the step.

        Args:
            loss: Loss of the micro-batch.
            share: Weight of the micro-batch in the step; those of a step add up to 1.
        """
        with self._clock.part("backward"):
            scaled: Tensor = self._loss_scaler.scale(share * loss)
            scaled.backward()  # type: ignore[no-untyped-call]

    def update(self, lr: float) -> Tensor:
        """Move the parameters by the step's gradients, and return the norm of these before they are clipped."""
        set_lr(self._optimizer, lr)
        if not self._synced:  # the last micro-batch, which would have averaged gradients over the ranks, was left out
            self._ranks.average_gradients(self._student)
            self._synced = True
        self._loss_scaler.unscale_(self._optimizer)
        grad_norm = nn.utils.get_total_norm([one.grad for one in self._parameters if one.grad is not None])
        if self._max_grad_norm:  # scaling by 1 would be one more pass over all gradients
            nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, grad_norm)
        self._loss_scaler.step(self._optimizer)
        self._loss_scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.has_gradients = False
        return grad_norm


def seed_step(device: torch.device, *, seed: int, step: int, rank: int) -> None:
    """Make dropout and noise functions of seed, step and rank, so that a resumed step draws what it would have drawn.

    On a CPU its generator alone is seeded: otherwise torch keeps a call for each kind of GPU that is not in use yet,
    with the stack that it came from, at every step.
    """
    [number] = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    seed_device = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_device(int(number >> np.uint64(1)))


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
