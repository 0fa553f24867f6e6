"""The training loop: images in, cached targets beside them, one optimizer step after the other."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError, StopRequestedError
from data_schemas.student_checkpoint import checkpoint_path
from pipeline.log import log
from pipeline.signals import stop_requests
from pipeline.store.draft import Draft
from stages.components.compute.background import write_behind
from stages.components.compute.distributed import Ranks, peer_errors
from stages.components.compute.precision import autocast
from stages.components.loading.batch import Batch
from stages.components.loading.image_loader import ReaderDiedError
from stages.components.loading.prefetch import prefetch_to_device
from stages.components.student.student import Student
from stages.components.student.tensor_file import write_tensors
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.device_pipeline import DevicePreprocess
from stages.distill.data.example_images import ExampleImages, load_batches
from stages.distill.data.examples import Examples
from stages.distill.data.target_smoothing import TargetSmoothing
from stages.distill.data.targets import Targets
from stages.distill.objectives import WeightedObjectives
from stages.distill.reporting.metric_log import Metrics
from stages.distill.training.ema import EMA
from stages.distill.training.loss_watch import LossWatch
from stages.distill.training.optimizer import warmup_cosine
from stages.distill.training.profiler import Clock, waited_for
from stages.distill.training.state import TrainingProgress, TrainingState, load_training_state
from stages.distill.training.step import TrainingStep, seed_step
from stages.distill.training.validation import Validation

STATE_NAME = "latest.safetensors"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        epochs: of `steps_per_epoch` steps each.
        lr: peak learning rate.
        warmup_steps: steps of linear rise to it; a cosine falls from there to 0.
        max_grad_norm: longer gradients are scaled down to this norm; 0 leaves them.
        save_every_epochs: weights are kept after so many epochs, and after the last.
        seed: of dropout.
    """

    epochs: int
    lr: float
    warmup_steps: int
    max_grad_norm: float
    save_every_epochs: int
    seed: int


@dataclass(frozen=True)
class RunSettings:
    """What does not change the result.

    Args:
        device: where the student trains.
        precision: fp32, bf16 or fp16.
        compiled: whether the student is compiled; what comes in an unusual size then runs as it would without, for to
            compile takes longer than an epoch's last batch.
        workers: processes that read images; 0 reads in this one.
        save_every_minutes: minutes between saved states within an epoch.
        max_rejected: unreadable images beyond this number stop the training.
    """

    device: torch.device
    precision: str
    compiled: bool
    workers: int
    save_every_minutes: float
    max_rejected: int


class Training:
    """A student in training, from wherever the draft's saved state stands to the end of its schedule.

    On one process of a CPU, a run that was killed and gone on with ends with the weights of one that was not. Every
    rank runs the same loop; the first alone writes.

    Args:
        student: changed in place; its weights after each kept epoch go into the draft.
        objectives: changed in place where they have state.
        optimizer: over the parameters of both.
        ema: running mean of the student's weights, which then is what is kept and validated; or none.
        dataset: images by epoch and example.
        examples: the captions and labels that belong to them.
        targets: the teacher's embeddings by caption row.
        smooth: what is done to targets before objectives see them; or none.
        prepare: from bytes to the student's input.
        requests: a maker of the batches that remain after so many steps.
        manifest_rows: by example, for messages.
        validate: measures the student on held-out images after every epoch, on all ranks; or none.
        schedule: how long and how fast.
        conduct: what does not change the result.
        metrics: where the numbers go.
        clock: told of the parts of a step.
        ranks: who trains together.
        draft: where weights and states go.
    """

    def __init__(
        self,
        student: Student,
        objectives: WeightedObjectives,
        optimizer: torch.optim.Optimizer,
        *,
        ema: EMA | None,
        dataset: ExampleImages,
        examples: Examples,
        targets: Targets,
        smooth: TargetSmoothing | None,
        prepare: DevicePreprocess,
        requests: Callable[[int], BatchRequests],
        manifest_rows: Tensor,
        validate: Validation | None,
        schedule: Schedule,
        conduct: RunSettings,
        metrics: Metrics,
        clock: Clock,
        ranks: Ranks,
        draft: Draft,
    ) -> None:
        self._student, self._objectives, self._optimizer, self._ema = student, objectives, optimizer, ema
        self._dataset, self._examples, self._targets, self._smooth = dataset, examples, targets, smooth
        self._requests, self._manifest_rows, self._validate = requests, manifest_rows, validate
        self._schedule, self._conduct, self._metrics, self._ranks = schedule, conduct, metrics, ranks
        self._clock, self._draft = clock, draft
        self._scaler = torch.amp.GradScaler(conduct.device.type, enabled=conduct.precision == "fp16")
        self._step = TrainingStep(
            student,
            objectives,
            optimizer,
            ranks=ranks,
            prepare=prepare,
            in_precision=autocast(conduct.precision, conduct.device),
            loss_scaler=self._scaler,
            max_grad_norm=schedule.max_grad_norm,
            clock=clock,
        )
        self._watch = LossWatch(conduct.device)
        self._examples_in_step: list[Tensor] = []
        self._progress = TrainingProgress()
        self._last_good = "none yet: it would start anew"
        self._modules: dict[str, nn.Module] = {"student": student, "objectives": objectives}
        if ema is not None:
            self._modules["ema"] = ema

    def run(self) -> TrainingProgress:
        """Train to the end.

        Raises:
            ProtoRKDError: too many images cannot be read, the loss or its gradient is no longer finite, or a stop was
                asked for.
        """
        self._resume()
        done, schedule, conduct = self._progress, self._schedule, self._conduct
        requests = self._requests(done.step)
        total_steps = schedule.epochs * requests.steps_per_epoch
        pin_memory = conduct.device.type == "cuda"
        batches = load_batches(self._dataset, requests, workers=conduct.workers, pin_memory=pin_memory)
        waited = waited_for(self._metrics.timed(batches), self._clock)
        self._student.train()
        self._saved_at = time.monotonic()
        with (
            stop_requests() as stop,
            peer_errors(),
            self._metrics.shown(done.step, total_steps=total_steps),
            closing(self._clock),
            write_behind(self._write) as self._write_behind,
        ):
            seed_step(seed=schedule.seed, step=done.step, rank=self._ranks.rank)
            try:
                self._take_steps(prefetch_to_device(waited, conduct.device), requests, stop, total_steps)
            except ReaderDiedError:
                if not stop.is_set() or self._examples_in_step:
                    raise
                self._save(None)  # they were stopped as well
                raise self._stopped(total_steps) from None
        return done

    def _take_steps(
        self, batches: Iterable[Batch], requests: BatchRequests, stop: threading.Event, total_steps: int
    ) -> None:
        done = self._progress
        for number, batch in enumerate(batches, start=1):
            last = number % requests.micro_batches_per_step == 0
            self._write_behind.check()
            word = self._confer(batch, stop)
            if min(word.counts) > 1:
                self._learn(batch, requests, word, last=last)
            else:
                log.info("distill: a batch of step %d has too few readable images to learn from", done.step + 1)
            if not last:
                continue
            self._finish_step(total_steps)
            epoch, step_in_epoch = divmod(done.step, requests.steps_per_epoch)
            self._metrics.write_when_due(done.step, epoch=done.step / requests.steps_per_epoch)
            is_kept = step_in_epoch == 0 or word.save or word.stop
            if is_kept:
                # All go on from what the first keeps, or differences in last bits, of objectives that a GPU adds up in
                # no fixed order, would grow. The optimizer's means need no exchange: they forget, weights do not.
                self._ranks.share_state(self._modules.values())
            kept = self._finish_epoch(epoch) if step_in_epoch == 0 else None
            if is_kept:
                self._save(kept)
            self._clock.step()
            if word.stop and done.step < total_steps:
                raise self._stopped(total_steps)

    def _stopped(self, total_steps: int) -> StopRequestedError:
        self._write_behind.settle()
        return StopRequestedError(
            f"distill was asked to stop and did, after step {self._progress.step} of {total_steps}. "
            "Run the same command again: it goes on from there."
        )

    def _learn(self, batch: Batch, requests: BatchRequests, word: "RankStatus", *, last: bool) -> None:
        epoch = self._progress.step // requests.steps_per_epoch
        with self._clock.part("targets"):
            teacher = self._examples.targets(batch.rows, epoch, self._targets.gather)
            if self._smooth is not None:
                teacher = self._smooth(teacher)
        with self._uncompiled() if len(batch.rows) not in requests.usual_sizes else nullcontext():
            loss, terms = self._step.accumulate(
                batch.images,
                seeds=batch.seeds,
                sizes=batch.sizes,
                teacher=teacher,
                rows=self._examples.caption_rows(batch.rows, epoch),
                labels=self._examples.labels(batch.rows),
                counts=word.counts,
                share=1 / requests.micro_batches_per_step,
                last=last,
            )
        self._examples_in_step.append(batch.rows)
        self._watch.look(loss, step=self._progress.step + 1, rows=self._rows_in_step(), last_good=self._last_good)
        self._metrics.add(num_images=sum(word.counts), values={"loss": loss, **terms})
        self._clock.add(sum(word.counts))

    def _uncompiled(self) -> AbstractContextManager[object]:
        return torch.compiler.set_stance("force_eager") if self._conduct.compiled else nullcontext()

    def _rows_in_step(self) -> Callable[[], list[int]]:
        examples = self._examples_in_step  # another list in the next step

        def look_up() -> list[int]:
            rows: list[int] = self._manifest_rows[torch.cat(examples)].tolist()
            return rows

        return look_up

    def _finish_step(self, total_steps: int) -> None:
        done, schedule = self._progress, self._schedule
        lr = schedule.lr * warmup_cosine(done.step, warmup_steps=schedule.warmup_steps, total_steps=total_steps)
        if self._step.has_gradients:
            with self._clock.part("optimizer"):
                grad_norm = self._step.update(lr)
                # The scaler leaves out the steps whose gradient is not finite, which the device alone knows.
                taken = grad_norm.isfinite() if self._scaler.is_enabled() else None
                if self._ema is not None:
                    self._ema.update(self._student, taken=taken)
            self._metrics.add_step(lr=lr, grad_norm=grad_norm, taken=taken)
            if taken is None:
                rows = self._rows_in_step()
                self._watch.look(grad_norm, name="gradient", step=done.step + 1, rows=rows, last_good=self._last_good)
        self._examples_in_step = []
        done.step += 1
        seed_step(seed=schedule.seed, step=done.step, rank=self._ranks.rank)

    def _finish_epoch(self, epoch: int) -> str | None:
        """Validate, and say under which path the weights are to be kept, if they are."""
        self._watch.settle(self._last_good)
        student = self._student if self._ema is None else self._ema.shadow
        if self._validate is not None:
            with self._metrics.paused(), self._clock.part("validation"), self._uncompiled():
                figures = self._validate(student)
            self._metrics.write(self._progress.step, epoch=epoch, values=figures)
        if epoch % self._schedule.save_every_epochs and epoch != self._schedule.epochs:
            return None
        self._progress.checkpoints.append(checkpoint_path(epoch))
        return checkpoint_path(epoch)

    def _save(self, kept: str | None) -> None:
        """Copy where training stands, and let it be written beside the steps that follow.

        Args:
            kept: where its weights are to be kept as well.
        """
        self._watch.settle(self._last_good)
        self._progress.loss_scale = self._scaler.state_dict()
        self._saved_at = time.monotonic()
        self._last_good = f"that after step {self._progress.step}, from which the same command goes on"
        if self._ranks.is_first:
            with self._clock.part("saving"):
                self._write_behind.settle()  # first, so that there is one copy at a time
                state = TrainingState.of(self._progress, modules=self._modules, optimizer=self._optimizer)
                self._write_behind(state, kept)

    def _write(self, state: TrainingState, kept: str | None) -> None:
        """Write a state, after the weights that it refers to."""
        if kept is not None:
            weights = state.below("student/" if self._ema is None else "ema/shadow.")
            write_tensors(weights, self._draft.path / kept)
            self._draft.adopt(kept)
        state.write(self._draft.state / STATE_NAME)

    def _confer(self, batch: Batch, stop: threading.Event) -> "RankStatus":
        """Tell the other ranks of this one's part of a micro-batch, so that all take the same turns."""
        due = time.monotonic() - self._saved_at > 60 * self._conduct.save_every_minutes
        words = self._ranks.exchange([len(batch.rows), len(batch.rejected), stop.is_set(), due])
        counts, num_rejected, stops, dues = zip(*words, strict=True)
        if any(num_rejected):
            for rejected in self._ranks.gather_objects(batch.rejected):
                self._progress.rejected |= rejected
            self._check_rejected()
        return RankStatus(
            counts=list(counts),
            stop=any(stops),
            save=bool(dues[0]),
        )

    def _check_rejected(self) -> None:
        rejected, most = self._progress.rejected, self._conduct.max_rejected
        if len(rejected) > most:
            named = [f"{self._dataset.path_of(example)}: {reason}" for example, reason in list(rejected.items())[:3]]
            raise ProtoRKDError(
                f"At most {most} images may be unreadable (--max-bad-fraction); got {len(rejected)} so far, "
                f"first: {'; '.join(named)}. Mend them, or raise --max-bad-fraction."
            )

    def _resume(self) -> None:
        saved = load_training_state(self._draft.state / STATE_NAME)
        if saved is not None and not all(map(self._draft.is_whole, saved.progress.checkpoints)):
            log.info("distill: starting over, a checkpoint that was kept is not whole")
            saved = None
        if self._ranks.broadcast(saved is not None):
            if saved is None:
                raise ProtoRKDError(f"{self._draft.path} must be one folder for all processes; got another here.")
            self._progress = saved.progress
            saved.restore(modules=self._modules, optimizer=self._optimizer)
            if self._progress.loss_scale:
                self._scaler.load_state_dict(self._progress.loss_scale)
        self._progress.count_by(self._requests(0).steps_per_epoch)
        if self._progress.step:
            self._last_good = f"that after step {self._progress.step}"
            log.info("distill: going on from step %d", self._progress.step)
        self._metrics.start(self._progress.step)


@dataclass(frozen=True)
class RankStatus:
    """What all ranks know of a micro-batch.

    Args:
        counts: images that could be read, by rank.
        stop: whether any rank was asked to stop.
        save: whether the first rank finds it time to save.
    """

    counts: list[int]
    stop: bool
    save: bool
