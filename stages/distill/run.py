"""What the distill stage does, put together: pairs, targets, student, objectives, training, files."""

from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from data_schemas.student_checkpoint import WEIGHTS_NAME, Preprocessing, StudentConfig, TeacherRecord
from pipeline.log import log
from pipeline.sources import hashed_inputs
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import DRAFT_PREFIX, Artifact
from stages.components.compute.device import choose_device, describe_work, gpu_name
from stages.components.compute.distributed import Ranks, ranks_of
from stages.components.compute.precision import autocast, choose_precision
from stages.components.images.batch_resize import resize_batch
from stages.components.images.image_set import ImageSet
from stages.components.images.packed_image_set import are_raw
from stages.components.images.transforms import EvalTransform, Normalize, TrainCrop
from stages.components.loading.image_loader import start_server
from stages.components.loading.num_workers import num_workers
from stages.components.student.weights import save_weights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.distill.build import (
    PrototypeMaps,
    TrainingPairs,
    choose_pairs,
    make_objectives,
    make_student,
    named_prototypes,
    speed_up,
)
from stages.distill.data.augmentation import AUGMENTATIONS, Augment
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.device_pipeline import DevicePreprocess, prepares_batches
from stages.distill.data.example_images import ExampleImages
from stages.distill.data.target_smoothing import TargetSmoothing
from stages.distill.data.targets import Targets, load_targets
from stages.distill.loss_spec import parse_losses
from stages.distill.reporting.metric_log import Metrics
from stages.distill.reporting.trackers import make_reporters
from stages.distill.training.ema import EMA
from stages.distill.training.loop import RunSettings, Schedule, Training
from stages.distill.training.optimizer import AdamWSettings, build_optimizer
from stages.distill.training.profiler import NoClock, StepClock
from stages.distill.training.state import TrainingProgress
from stages.distill.training.training_device import training_device
from stages.distill.training.validation import Validation

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillRuntime, DistillSources

METRICS_NAME = "metrics.jsonl"


def train_student(
    params: "DistillParams", runtime: "DistillRuntime", *, inputs: "DistillSources", draft: Draft, context: Context
) -> Result:
    """Train a student against an artifact of embeddings, into a draft; the first of several processes writes.

    Raises:
        ProtoRKDError: the embeddings are damaged, the student or an objective is unknown, too many images cannot be
            read, the loss is no longer finite, or an operation is to be deterministic and cannot.
    """
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    if ranks_of(context.peers).is_first:
        log.info("distill: on %s", describe_work(device, precision=precision))
    trained = f"--student {params.student} and --loss {', '.join(params.loss)}"
    with training_device(device, deterministic=runtime.deterministic, trained=trained):
        return _train(params, runtime, device, precision, inputs=inputs, draft=draft, context=context)


def _train(
    params: "DistillParams",
    runtime: "DistillRuntime",
    device: torch.device,
    precision: str,
    *,
    inputs: "DistillSources",
    draft: Draft,
    context: Context,
) -> Result:
    embeddings = inputs.embeddings.value
    images = inputs.images.value
    ranks = ranks_of(context.peers)
    if num_workers(runtime.workers):
        start_server()  # it gets ready while the rest is made
    targets = load_targets(embeddings, placement=runtime.targets_placement, device=device, draft=draft, ranks=ranks)
    max_bad = int(runtime.max_bad_fraction * len(images.paths))
    pairs = choose_pairs(params, embeddings=embeddings, images=images, targets=targets, max_missing=max_bad)
    torch.manual_seed(params.seed)
    student, preprocessing = make_student(params, inputs, teacher_dim=targets.dim, device=device, ranks=ranks)
    maps = PrototypeMaps(
        named=named_prototypes(inputs, dim=targets.dim),
        embeddings=embeddings,
        num_captions=targets.num_captions,
        device=device,
        ranks=ranks,
        context=context,
    )
    objectives = make_objectives(params, targets=targets, prototypes=maps, num_labels=pairs.num_labels, device=device)
    ema = EMA(student, decay=params.ema_decay) if params.ema_decay else None
    speed_up(student, compile_=runtime.compile, checkpoint_gradients=runtime.checkpoint_gradients)
    normalize = Normalize(preprocessing, device)
    conduct = RunSettings(
        device=device,
        precision=precision,
        compiled=runtime.compile,
        workers=num_workers(runtime.workers),
        save_every_minutes=runtime.save_every_minutes,
        max_rejected=max_bad - len(images.missing),
    )
    settings = AdamWSettings(
        lr=params.lr, weight_decay=params.weight_decay, beta1=params.beta1, beta2=params.beta2, eps=params.eps
    )
    dataset, prepare = _images(
        params, pairs=pairs, images=images, preprocessing=preprocessing, normalize=normalize, device=device
    )
    training = Training(
        student,
        objectives,
        build_optimizer(student, objectives, settings),
        ema=ema,
        dataset=dataset,
        examples=pairs.examples,
        targets=targets,
        smooth=_smoothing(params, targets),
        prepare=prepare,
        requests=lambda start_step: BatchRequests(
            np.arange(pairs.examples.num),
            batch_size=params.batch_size,
            epochs=params.epochs,
            seed=params.seed,
            start_step=start_step,
            episode_size=params.episode_size,
            rank=ranks.rank,
            num_ranks=ranks.size,
            accumulate=params.accumulate_steps,
        ),
        manifest_rows=torch.from_numpy(pairs.manifest_rows[pairs.examples.pairs]),
        validate=_validation(
            params,
            pairs=pairs,
            images=images,
            targets=targets,
            preprocessing=preprocessing,
            normalize=normalize,
            conduct=conduct,
            ranks=ranks,
        ),
        schedule=Schedule(
            epochs=params.epochs,
            lr=params.lr,
            warmup_steps=params.warmup_steps,
            max_grad_norm=params.max_grad_norm,
            save_every_epochs=params.save_every_epochs,
            seed=params.seed,
        ),
        conduct=conduct,
        metrics=Metrics(
            draft.logs / METRICS_NAME,
            every=runtime.log_every_steps,
            reporters=make_reporters(
                runtime.report_to,
                draft.logs,
                draft.path.name.removeprefix(DRAFT_PREFIX)[:12],
                resolved_options(params, runtime, inputs),
            )
            if ranks.is_first
            else (),
            enabled=ranks.is_first,
        ),
        clock=StepClock(draft.logs, device) if runtime.profile and ranks.is_first else NoClock(),
        ranks=ranks,
        draft=draft,
    )
    if ranks.is_first:  # before the first checkpoint, so that evaluation can watch
        _config(params, preprocessing, targets, embeddings, embedding_dim=student.embedding_dim).write(draft.path)
    done = training.run()
    if ranks.is_first:
        save_weights(student if ema is None else ema.shadow, draft.path / WEIGHTS_NAME)
        _write_rejected(draft, pairs, images, done)
    return Result(
        counts=_counts(params, pairs, images, done),
        uses=tuple(sorted(maps.used)),
        environment={"device": gpu_name(device), "precision": precision, "processes": str(ranks.size)},
    )


def resolved_options(params: "DistillParams", runtime: "DistillRuntime", inputs: "DistillSources") -> dict[str, object]:
    """All that a training was asked for, as trackers note it: options, and where inputs lie and what they are."""
    identified = hashed_inputs(inputs).items()
    places = {name: entry.location for name, entry in identified}
    digests = {f"{name}_digest": entry.digest for name, entry in identified}
    return {**asdict(params), **asdict(runtime), **places, **digests}


def _images(
    params: "DistillParams",
    *,
    pairs: TrainingPairs,
    images: ImageSet,
    preprocessing: Preprocessing,
    normalize: Normalize,
    device: torch.device,
) -> tuple[ExampleImages, DevicePreprocess]:
    """Divide what is done to images between the processes that read and the device."""
    augmentation = AUGMENTATIONS[params.augmentation]
    size, interpolation = params.image_size, preprocessing.interpolation
    crop = TrainCrop(
        image_size=size, min_scale=params.crop_min_scale or augmentation.crop_min_scale, interpolation=interpolation
    )
    on_device = prepares_batches(device)
    resize = on_device and are_raw(images)  # what has to be decoded is shrunk while it is
    here, there = (None, Augment(augmentation)) if on_device else (Augment(augmentation), None)
    return (
        ExampleImages(images, pairs.examples.pairs, crop, here, seed=params.seed, resized=not resize),
        DevicePreprocess(
            normalize, there, partial(resize_batch, size=size, interpolation=interpolation) if resize else None
        ),
    )


def _smoothing(params: "DistillParams", targets: Targets) -> TargetSmoothing | None:
    if not params.target_smoothing:
        return None
    return TargetSmoothing.over(
        targets,
        share=params.target_smoothing,
        temperature=params.smoothing_temperature,
        num_landmarks=params.smoothing_landmarks,
    )


def _validation(
    params: "DistillParams",
    *,
    pairs: TrainingPairs,
    images: ImageSet,
    targets: Targets,
    preprocessing: Preprocessing,
    normalize: Normalize,
    conduct: RunSettings,
    ranks: Ranks,
) -> Validation | None:
    if not len(pairs.held_out):
        return None
    if params.projection_dim not in (0, targets.dim):
        raise ProtoRKDError(
            f"--validation-fraction must go with embeddings of the teacher's width, {targets.dim}; got "
            f"--projection-dim {params.projection_dim}. Leave one of them out."
        )
    return Validation(
        images,
        torch.from_numpy(pairs.held_out),
        caption_rows=torch.from_numpy(pairs.caption_rows),
        targets=targets,
        transform=EvalTransform(preprocessing),
        normalize=normalize,
        in_precision=autocast(conduct.precision, conduct.device),
        ranks=ranks,
        batch_size=params.batch_size,
        workers=conduct.workers,
    )


def _config(
    params: "DistillParams", preprocessing: Preprocessing, targets: Targets, embeddings: Artifact, *, embedding_dim: int
) -> StudentConfig:
    return StudentConfig(
        backbone=params.student,
        embedding_dim=embedding_dim,
        projection_layers=params.projection_layers,
        preprocessing=preprocessing,
        teacher=TeacherRecord(
            identity=embeddings.record.inputs["teacher"].digest,
            dim=targets.dim,
            recipe=EncodingOptions.of(embeddings.record.params).as_dict(),
        ),
        losses=parse_losses(params.loss),
    )


def _reasons(images: ImageSet, pairs: TrainingPairs, done: TrainingProgress) -> dict[int, str]:
    """Why a pair, by its number, had no image; pairs of one image share its fate."""
    unreadable = {images.paths[pairs.examples.pairs[example]]: reason for example, reason in done.rejected.items()}
    sharing = enumerate(images.paths) if unreadable else ()
    found = {pair: unreadable[path] for pair, path in sharing if path in unreadable}
    return {**images.missing, **found}


def _write_rejected(draft: Draft, pairs: TrainingPairs, images: ImageSet, done: TrainingProgress) -> None:
    reasons = _reasons(images, pairs, done)
    rows = pairs.manifest_rows
    rejections = [
        Rejection(row=int(rows[pair]), reason=reasons[pair], value=images.paths[pair]) for pair in sorted(reasons)
    ]
    write_rejected(draft.path, rejections)


def _counts(
    params: "DistillParams", pairs: TrainingPairs, images: ImageSet, done: TrainingProgress
) -> dict[str, object]:
    reasons = _reasons(images, pairs, done)
    return {
        "pairs": pairs.num,
        "training_examples": pairs.examples.num - len(done.rejected),
        "validation_pairs": len(pairs.held_out),
        "rejected_images": len(reasons),
        "rejected_reasons": dict(Counter(reasons.values())),
        "zero_captions_left_out": pairs.num_zero,
        "epochs": params.epochs,
        "steps": done.step,
    }
