"""Settings of a training: its schedule, which changes the student, and how it runs, which does not."""

from dataclasses import dataclass

import torch

from stages.distill.training.optimizer import warmup_cosine


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a student trains; part of what the result depends on.

    Args:
        epochs: Number of epochs.
        lr: Peak learning rate.
        warmup_steps: Steps of linear rise to the peak; a cosine falls from there to 0.
        max_grad_norm: Norm to which longer gradients are scaled down; 0 leaves them.
        save_every_epochs: Epochs between kept weights; those of the last epoch are always kept.
        seed: Seed of dropout.
    """

    epochs: int
    lr: float
    warmup_steps: int
    max_grad_norm: float
    save_every_epochs: int
    seed: int

    def learning_rate(self, step: int, *, total_steps: int) -> float:
        """Return the learning rate after so many steps of all."""
        return self.lr * warmup_cosine(step, warmup_steps=self.warmup_steps, total_steps=total_steps)

    def keeps(self, epoch: int) -> bool:
        """Tell whether weights are kept after so many epochs."""
        return epoch % self.save_every_epochs == 0 or epoch == self.epochs


@dataclass(frozen=True)
class RunSettings:
    """How a training runs; no part of what the result depends on.

    Args:
        device: Device on which the student trains.
        precision: Precision of the student's matrix products: fp32, bf16 or fp16.
        compiled: Whether the student is compiled; a batch of an unusual size then runs as it would without, because
            to compile for it takes longer than an epoch's last batch.
        workers: Processes that read images; 0 reads in this one.
        save_every_minutes: Minutes between saved states within an epoch.
        max_rejected: Most images that may be unreadable; beyond it, training stops.
    """

    device: torch.device
    precision: str
    compiled: bool
    workers: int
    save_every_minutes: float
    max_rejected: int
