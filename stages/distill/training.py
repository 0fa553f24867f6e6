"""The training loop: pictures in, cached targets beside them, one optimizer step after the other."""

import math
import time
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import checkpoint_path
from pipeline.draft import Draft
from pipeline.log import log
from pipeline.progress import progress
from stages.distill.data import BatchRequests, PairImages, load_batches
from stages.distill.metrics import Metrics
from stages.distill.objectives import WeightedObjectives
from stages.distill.optimizer import warmup_cosine
from stages.distill.precision import autocast
from stages.distill.stop import stop_requests
from stages.distill.targets import Targets
from stages.distill.training_state import TrainingProgress, load_training_state, save_training_state
from stages.image_batches import worker_errors
from stages.student import Student
from stages.trained_student import save_weights
from stages.transforms import Normalize

STATE_NAME = "training.safetensors"
METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        epochs: passes over the pairs.
        batch_size: pairs a step.
        lr: peak learning rate.
        warmup_steps: steps of linear rise to it; a cosine falls from there to 0.
        max_grad_norm: longer gradients are scaled down to this norm; 0 leaves them.
        save_every_epochs: weights are kept after so many epochs, and after the last.
        seed: of the order and the crops.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int
    max_grad_norm: float
    save_every_epochs: int
    seed: int


@dataclass(frozen=True)
class Conduct:
    """What does not change the result.

    Args:
        device: where the student trains.
        precision: fp32, bf16 or fp16.
        workers: processes that read pictures; 0 reads in this one.
        log_every_steps: steps between lines of metrics.
        save_every_minutes: minutes between saved states within an epoch.
        max_rejected: unreadable pictures beyond this number stop the training.
    """

    device: torch.device
    precision: str
    workers: int
    log_every_steps: int
    save_every_minutes: float
    max_rejected: int


def train(
    student: Student,
    objectives: WeightedObjectives,
    optimizer: torch.optim.Optimizer,
    *,
    dataset: PairImages,
    pairs: Tensor,
    caption_rows: Tensor,
    targets: Targets,
    normalize: Normalize,
    schedule: Schedule,
    conduct: Conduct,
    draft: Draft,
) -> TrainingProgress:
    """Train to the end of the schedule, from wherever the draft's saved state stands.

    On the CPU a run that was killed and gone on with ends with the weights of one that was not.

    Args:
        student: changed in place; its weights after each kept epoch go into the draft.
        objectives: changed in place where they have state.
        optimizer: over the parameters of both.
        dataset: pictures by epoch and pair.
        pairs: which pairs to train on.
        caption_rows: caption row by pair.
        targets: embeddings by caption row.
        normalize: bytes to the student's input.
        schedule: how long and how fast.
        conduct: where, and what is noted on the way.
        draft: where checkpoints, state and metrics go.

    Raises:
        ProtoRKDError: the loss is no longer finite, too many pictures cannot be read, or the process was asked to stop.

    Shapes:
        pairs: (training pairs,), int64.
        caption_rows: (all pairs,), int64.
    """
    modules: dict[str, nn.Module] = {"student": student, "objectives": objectives}
    parameters = list(chain(student.parameters(), objectives.parameters()))
    scaler = torch.amp.GradScaler(conduct.device.type, enabled=conduct.precision == "fp16")
    state_path = draft.state / STATE_NAME
    done = _resume(draft, modules, optimizer)
    if done.loss_scale:
        scaler.load_state_dict(done.loss_scale)
    requests = BatchRequests(
        pairs.numpy(), batch_size=schedule.batch_size, epochs=schedule.epochs, seed=schedule.seed, start_step=done.step
    )
    total_steps = done.step + len(requests)
    batches = load_batches(dataset, requests, workers=conduct.workers, pin_memory=conduct.device.type == "cuda")
    metrics = Metrics(draft.logs / METRICS_NAME, keep_to_step=done.step, every=conduct.log_every_steps)
    in_precision = autocast(conduct.precision, conduct.device)
    student.train()
    saved_at = time.monotonic()
    total, before = len(pairs) * schedule.epochs, min(done.step * schedule.batch_size, len(pairs) * schedule.epochs)
    with (
        stop_requests() as stop,
        worker_errors(),
        progress("distilling", total=total, unit="pictures", done=before) as advance,
    ):
        for batch in metrics.timed(batches):
            done.rejected |= batch.rejected
            _check_rejected(done, dataset, conduct.max_rejected)
            if len(batch.rows) > 1:  # batch normalisation needs two
                factor = warmup_cosine(done.step, warmup_steps=schedule.warmup_steps, total_steps=total_steps)
                for group in optimizer.param_groups:
                    group["lr"] = schedule.lr * factor
                with in_precision():
                    embeddings = student(normalize(batch.images))
                loss, terms = objectives(student=embeddings.float(), teacher=targets.gather(caption_rows[batch.rows]))
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                grad_norm = nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm or math.inf)
                scaler.step(optimizer)
                scaler.update()
                values = {"loss": loss, **terms, "grad_norm": grad_norm}
                metrics.add(num_images=len(batch.rows), lr=schedule.lr * factor, values=values)
            done.step += 1
            advance(len(batch.rows) + len(batch.rejected))
            epoch, step_in_epoch = divmod(done.step, requests.steps_per_epoch)
            metrics.write_when_due(done.step, epoch=done.step / requests.steps_per_epoch)
            due = time.monotonic() - saved_at > 60 * conduct.save_every_minutes
            if step_in_epoch == 0 or due or stop.is_set():
                metrics.check_finite(done.step)
                if step_in_epoch == 0 and (epoch % schedule.save_every_epochs == 0 or epoch == schedule.epochs):
                    _keep_weights(student, checkpoint_path(epoch), draft, done)
                done.loss_scale = scaler.state_dict()
                save_training_state(state_path, done, modules=modules, optimizer=optimizer)
                saved_at = time.monotonic()
            if stop.is_set() and done.step < total_steps:
                raise ProtoRKDError(
                    f"distill was asked to stop and did, after step {done.step} of {total_steps}. "
                    "Run the same command again: it goes on from there."
                )
    return done


def _resume(draft: Draft, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> TrainingProgress:
    saved = load_training_state(draft.state / STATE_NAME)
    if saved is None:
        return TrainingProgress()
    if missing := [path for path in saved.progress.checkpoints if not draft.is_whole(path)]:
        log.info("distill: starting over, %s is not whole", missing[0])
        return TrainingProgress()
    saved.restore(modules=modules, optimizer=optimizer)
    log.info("distill: going on from step %d", saved.progress.step)
    return saved.progress


def _keep_weights(student: Student, path: str, draft: Draft, done: TrainingProgress) -> None:
    save_weights(student, draft.path / path)
    draft.adopt(path)
    done.checkpoints.append(path)


def _check_rejected(done: TrainingProgress, dataset: PairImages, max_rejected: int) -> None:
    if len(done.rejected) > max_rejected:
        examples = "; ".join(f"{dataset.path_of(pair)}: {reason}" for pair, reason in list(done.rejected.items())[:3])
        raise ProtoRKDError(
            f"At most {max_rejected} pictures may be unreadable (--max-bad-fraction); got {len(done.rejected)} so far, "
            f"first: {examples}. Mend them, or raise --max-bad-fraction."
        )
