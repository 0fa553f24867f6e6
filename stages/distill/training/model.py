"""The parts that a training changes: the student and all that moves with it."""

from dataclasses import dataclass

import torch
from torch import nn

from stages.components.student.student import Student
from stages.distill.objectives import WeightedObjectives
from stages.distill.training.ema import EMA


@dataclass(frozen=True)
class TrainedModel:
    """The student and all that moves with it; each part is changed in place, and saved with the training's state.

    Args:
        student: Student in training.
        objectives: Objectives, with whatever state and parameters they have.
        optimizer: Optimizer over the parameters of both.
        loss_scaler: Scaler of the loss, which fp16 alone enables.
        ema: Running mean of the student's weights, which then is what is kept and validated; None keeps no mean.
    """

    student: Student
    objectives: WeightedObjectives
    optimizer: torch.optim.Optimizer
    loss_scaler: torch.amp.GradScaler
    ema: EMA | None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules that have state, by the names under which it is saved."""
        modules: dict[str, nn.Module] = {"student": self.student, "objectives": self.objectives}
        return modules if self.ema is None else {**modules, "ema": self.ema}

    @property
    def kept_student(self) -> Student:
        """The student whose weights are kept and validated: the averaged one, where there is one."""
        return self.student if self.ema is None else self.ema.shadow

    @property
    def kept_prefix(self) -> str:
        """The prefix of that student's tensors in a saved state."""
        return "student/" if self.ema is None else "ema/shadow."
