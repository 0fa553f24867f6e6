"""Save a training's state beside the steps that follow, and restore it when a run goes on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.store.draft import Draft
from stages.components.compute.background import write_behind
from stages.components.compute.distributed import Ranks
from stages.components.compute.tensor_file import write_tensors
from stages.components.student.adapters import merge_adapters
from stages.distill.training.model import TrainedModel
from stages.distill.training.profiler import Clock
from stages.distill.training.state import TrainingProgress, TrainingState, load_training_state

STATE_NAME = "latest.safetensors"


class Saver:
    """Saves a training's state in a draft, and restores it in the run that goes on.

    The first rank alone writes, in a thread of its own, and one state at a time.

    Args:
        model: Model whose state is saved, and restored in place.
        draft: Draft that weights and states go into.
        ranks: Ranks that train together.
        clock: Clock that is told how long saving holds up the steps.
        every_minutes: Minutes between states within an epoch.
    """

    last_good: str
    """What can be gone on from, for messages."""

    def __init__(self, model: TrainedModel, draft: Draft, *, ranks: Ranks, clock: Clock, every_minutes: float) -> None:
        self._model, self._draft, self._ranks, self._clock = model, draft, ranks, clock
        self._every_s = 60 * every_minutes
        self._saved_at = time.monotonic()
        self.last_good = "none yet: it would start anew"

    def resume(self, *, steps_per_epoch: int) -> TrainingProgress:
        """Restore the draft's state, if it has a whole one, and return its progress.

        Raises:
            ProtoRKDError: this rank sees another folder than the first.
        """
        progress = TrainingProgress()
        saved = load_training_state(self._draft.state / STATE_NAME)
        if saved is not None and not all(map(self._draft.is_whole, saved.progress.checkpoints)):
            log.info("distill: starting over, a checkpoint that was kept is not whole")
            saved = None
        if self._ranks.broadcast(saved is not None):
            if saved is None:
                raise ProtoRKDError(f"{self._draft.path} must be one folder for all processes; got another here.")
            progress = saved.progress
            saved.restore(modules=self._model.modules, optimizer=self._model.optimizer)
            if progress.loss_scale:
                self._model.loss_scaler.load_state_dict(progress.loss_scale)
        progress.count_by(steps_per_epoch)
        if progress.step:
            self.last_good = f"that after step {progress.step}"
            log.info("distill: going on from step %d", progress.step)
        return progress

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let `save` write within; leaving waits for the last state, also when the block itself has failed.

        Raises:
            ProtoRKDError: a state could not be written.
        """
        self._saved_at = time.monotonic()
        with write_behind(self._write) as self._write_behind:
            yield

    def is_due(self) -> bool:
        """Tell whether it is time to save the next state."""
        return time.monotonic() - self._saved_at > self._every_s

    def save(self, progress: TrainingProgress, *, checkpoint: str | None) -> None:
        """Copy the training's state, and let it be written beside the steps that follow.

        Args:
            progress: How far training has come.
            checkpoint: Path, within the draft, under which the weights are kept as well; None keeps none.

        Raises:
            ProtoRKDError: the state before could not be written.
        """
        progress.loss_scale = self._model.loss_scaler.state_dict()
        self._saved_at = time.monotonic()
        self.last_good = f"that after step {progress.step}, from which the same command goes on"
        if self._ranks.is_first:
            with self._clock.part("saving"):
                self._write_behind.settle()  # first, so that there is one copy at a time
                state = TrainingState.of(progress, modules=self._model.modules, optimizer=self._model.optimizer)
                self._write_behind(state, checkpoint)

    def check(self) -> None:
        """Raise the error of writing a state, if there is one by now, without waiting for it."""
        self._write_behind.check()

    def settle(self) -> None:
        """Wait until the last state is written, and raise its error, if any."""
        self._write_behind.settle()

    def _write(self, state: TrainingState, checkpoint: str | None) -> None:
        """Write a state, after the weights that it refers to."""
        if checkpoint is not None:
            write_tensors(merge_adapters(state.below(self._model.kept_prefix)), self._draft.path / checkpoint)
            self._draft.adopt(checkpoint)
        state.write(self._draft.state / STATE_NAME)
