"""The training loop: images in, cached targets beside them, one optimizer step after the other.

Each step, in `Training._take_steps`:

1. Fetch a batch that was read ahead, and agree with the other ranks what happens in it.
2. Forward: the student embeds the images.
3. Loss: the objectives compare the embeddings of all ranks with the teacher's.
4. Backward: gradients add up over the micro-batches of the step.
5. Step: the optimizer moves the student, and the running mean of its weights follows.
6. Log: a line of metrics where one is due.
7. Save: where an epoch ends, after so many minutes, or before a stop.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError, StopRequestedError
from data_schemas.images.student_checkpoint import checkpoint_path
from pipeline.log import log
from pipeline.signals import stop_requests
from pipeline.store.draft import Draft
from stages.components.compute.distributed import Ranks, peer_errors
from stages.components.compute.precision import autocast
from stages.components.loading.batch import Batch
from stages.components.loading.image_loader import NoBatchError, ReaderDiedError
from stages.components.loading.prefetch import prefetch_to_device
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.training_data import TrainingData
from stages.distill.reporting.metric_log import Metrics
from stages.distill.training.loss_watch import LossWatch
from stages.distill.training.model import TrainedModel
from stages.distill.training.profiler import Clock, waited_for
from stages.distill.training.rank_status import RankStatus, exchange_status
from stages.distill.training.saving import Saver
from stages.distill.training.settings import RunSettings, Schedule
from stages.distill.training.state import TrainingProgress
from stages.distill.training.step import TrainingStep, seed_step
from stages.distill.training.validation import Validation


@dataclass(frozen=True)
class Observers:
    """Observers of a training, which change nothing of it.

    Args:
        metrics: Log of the numbers of training and validation.
        clock: Clock that is told of the parts of a step.
        validate: Measures the student on held-out images after every epoch, on all ranks; None measures nothing.
    """

    metrics: Metrics
    clock: Clock
    validate: Validation | None


class Training:
    """A student in training, from wherever the draft's saved state stands to the end of its schedule.

    On one process of a CPU, a run that was killed and gone on with ends with the weights of one that was not. Every
    rank runs the same loop; the first alone writes.

    Args:
        data: Images and targets that the student learns from.
        model: Student, and all that moves with it; changed in place.
        schedule: How long and how fast.
        settings: How the training runs, which does not change its result.
        observers: Metrics, clock and validation.
        ranks: Ranks that train together.
        draft: Draft that weights and states go into.
    """

    def __init__(
        self,
        data: TrainingData,
        model: TrainedModel,
        schedule: Schedule,
        settings: RunSettings,
        observers: Observers,
        *,
        ranks: Ranks,
        draft: Draft,
    ) -> None:
        self._data, self._model, self._schedule, self._settings, self._ranks = data, model, schedule, settings, ranks
        self._metrics, self._clock, self._validate = observers.metrics, observers.clock, observers.validate
        self._step = TrainingStep(
            model,
            ranks=ranks,
            prepare=data.prepare,
            in_precision=autocast(settings.precision, settings.device),
            max_grad_norm=schedule.max_grad_norm,
            clock=observers.clock,
        )
        self._saver = Saver(model, draft, ranks=ranks, clock=observers.clock, every_minutes=settings.save_every_minutes)
        self._watch = LossWatch(settings.device)
        self._total_steps = schedule.epochs * data.requests.steps_per_epoch
        self._progress = TrainingProgress()
        self._examples_in_step: list[Tensor] = []

    def run(self) -> TrainingProgress:
        """Train to the end of the schedule.

        Raises:
            ProtoRKDError: too many images cannot be read, the loss or its gradient is no longer finite, or a stop was
                asked for.
        """
        self._progress = self._saver.resume(steps_per_epoch=self._data.requests.steps_per_epoch)
        self._metrics.start(self._progress.step)
        self._model.student.train()
        with (
            stop_requests() as stop,
            peer_errors(),
            self._metrics.shown(self._progress.step, total_steps=self._total_steps),
            closing(self._clock),
            self._saver.writing(),
        ):
            self._seed_step()
            try:
                self._take_steps(self._data.requests.from_step(self._progress.step), stop)
            except (ReaderDiedError, NoBatchError):
                if not stop.is_set() or self._examples_in_step:
                    raise
                self._save(None)  # they were stopped as well, or hang
                raise self._stopped() from None
        return self._progress

    def _take_steps(self, requests: BatchRequests, stop: threading.Event) -> None:
        """Take the steps that are requested, each as the top of this module says."""
        progress, data, step = self._progress, self._data, self._step
        for number, batch in enumerate(self._fetch(requests), start=1):
            self._saver.check()
            status = self._sync_ranks(batch, stop)
            epoch = progress.step // requests.steps_per_epoch
            is_last = number % requests.micro_batches_per_step == 0
            is_usual = len(batch.rows) in requests.usual_sizes

            if min(status.counts) > 1:
                with self._clock.part("targets"):
                    teacher = data.teacher(batch.rows, epoch)
                with self._eager_where(not is_usual), step.micro_batch(last=is_last):
                    embeddings = step.forward(batch.images, seeds=batch.seeds, sizes=batch.sizes)
                    loss, terms = step.loss(
                        embeddings,
                        teacher=teacher,
                        beside=data.beside(batch, epoch),
                        counts=status.counts,
                    )
                    step.backward(loss, share=1 / requests.micro_batches_per_step)
                self._look_at(batch, {"loss": loss.detach(), **terms}, num_images=sum(status.counts))
            else:
                log.info("distill: a batch of step %d has too few readable images to learn from", progress.step + 1)
            if not is_last:
                continue

            if step.has_gradients:
                self._update_weights()
            self._examples_in_step = []
            progress.step += 1
            self._seed_step()

            self._metrics.write_when_due(progress.step, epoch=progress.step / requests.steps_per_epoch)

            epochs_done, step_in_epoch = divmod(progress.step, requests.steps_per_epoch)
            ends_epoch = step_in_epoch == 0
            if ends_epoch or status.save or status.stop:
                # All go on from what the first keeps, or differences in last bits, of objectives that a GPU adds up in
                # no fixed order, would grow. The optimizer's means need no exchange: they forget, weights do not.
                self._ranks.share_state(self._model.modules.values())
                self._save(self._finish_epoch(epochs_done) if ends_epoch else None)
            self._clock.step()
            if status.stop and progress.step < self._total_steps:
                raise self._stopped()

    def _fetch(self, requests: BatchRequests) -> Iterable[Batch]:
        """Read batches ahead, note how long each is waited for, and send its images to the device."""
        settings = self._settings
        pin_memory = settings.device.type == "cuda"
        batches = self._data.source.batches(requests, workers=settings.workers, pin_memory=pin_memory)
        return prefetch_to_device(waited_for(self._metrics.timed(batches), self._clock), settings.device)

    def _sync_ranks(self, batch: Batch, stop: threading.Event) -> RankStatus:
        """Exchange the status of each rank's part of a micro-batch, so that all ranks do the same."""
        status = exchange_status(self._ranks, batch, stop=stop.is_set(), save=self._saver.is_due())
        if status.rejected:
            rejected, most = self._progress.rejected, self._settings.max_rejected
            rejected |= status.rejected
            if len(rejected) > most:
                named = [f"{self._data.source.path_of(one)}: {reason}" for one, reason in list(rejected.items())[:3]]
                raise ProtoRKDError(
                    f"At most {most} images may be unreadable (--max-bad-fraction); got {len(rejected)} so far, "
                    f"first: {'; '.join(named)}. Mend them, or raise --max-bad-fraction."
                )
        return status

    def _eager_where(self, is_unusual: bool) -> AbstractContextManager[object]:
        """Run a compiled student as if it were not, where the shapes are unusual."""
        is_compiled = self._settings.compiled
        return torch.compiler.set_stance("force_eager") if is_compiled and is_unusual else nullcontext()

    def _look_at(self, batch: Batch, values: dict[str, Tensor], *, num_images: int) -> None:
        """Judge the loss of a micro-batch, and note its numbers for the log."""
        self._examples_in_step.append(batch.rows)
        step, last_good = self._progress.step + 1, self._saver.last_good
        self._watch.look(values["loss"], step=step, rows=self._rows_in_step(), last_good=last_good)
        self._metrics.add(num_images=num_images, values=values)
        self._clock.add(num_images)

    def _rows_in_step(self) -> Callable[[], list[int]]:
        examples = self._examples_in_step  # another list in the next step

        def look_up() -> list[int]:
            rows: list[int] = self._data.manifest_rows[torch.cat(examples)].tolist()
            return rows

        return look_up

    def _update_weights(self) -> None:
        """Move the student by the gradients of the step, and the mean of its weights after it; judge the gradients."""
        progress, model = self._progress, self._model
        lr = self._schedule.learning_rate(progress.step, total_steps=self._total_steps)
        with self._clock.part("optimizer"):
            grad_norm = self._step.update(lr)
            # The scaler leaves out the steps whose gradient is not finite, which the device alone knows.
            taken = grad_norm.isfinite() if model.loss_scaler.is_enabled() else None
            if model.ema is not None:
                model.ema.update(model.student, taken=taken)
        self._metrics.add_step(lr=lr, grad_norm=grad_norm, taken=taken)
        if taken is None:
            step, last_good = progress.step + 1, self._saver.last_good
            self._watch.look(grad_norm, name="gradient", step=step, rows=self._rows_in_step(), last_good=last_good)

    def _seed_step(self) -> None:
        seed_step(self._settings.device, seed=self._schedule.seed, step=self._progress.step, rank=self._ranks.rank)

    def _finish_epoch(self, epochs_done: int) -> str | None:
        """Validate, and return the path under which the weights are to be kept, or None."""
        self._watch.settle(self._saver.last_good)
        if self._validate is not None:
            with self._metrics.paused(), self._clock.part("validation"), self._eager_where(True):
                figures = self._validate(self._model.kept_student)
            self._metrics.write(self._progress.step, epoch=epochs_done, values=figures)
        if not self._schedule.keeps(epochs_done):
            return None
        self._progress.checkpoints.append(checkpoint_path(epochs_done))
        return checkpoint_path(epochs_done)

    def _save(self, checkpoint: str | None) -> None:
        """Save the training's state, once all its losses are known to be finite."""
        self._watch.settle(self._saver.last_good)
        self._saver.save(self._progress, checkpoint=checkpoint)

    def _stopped(self) -> StopRequestedError:
        self._saver.settle()
        return StopRequestedError(
            f"distill was asked to stop and did, after step {self._progress.step} of {self._total_steps}. "
            "Run the same command again: it goes on from there."
        )
