"""Run the distill stage: pairs, targets, images or features, student, objectives, training, files."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from data_schemas.images.student_checkpoint import WEIGHTS_NAME, Preprocessing, StudentConfig
from data_schemas.training_log import METRICS_NAME
from pipeline.log import log
from pipeline.sources import hashed_inputs
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import DRAFT_PREFIX, Artifact
from stages.components.compute.device import choose_device, describe_work, gpu_name
from stages.components.compute.distributed import Ranks, ranks_of
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.feature_images import check_matched, find_features
from stages.components.images.image_set import ImageSet
from stages.components.loading.image_loader import start_server
from stages.components.loading.num_workers import num_workers
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.weights import save_weights
from stages.distill.build import (
    PrototypeMaps,
    make_model,
    make_objectives,
    make_order,
    make_student,
    make_validation,
    named_prototypes,
    take_student,
)
from stages.distill.build_features import (
    CachedFeatures,
    load_cached_features,
    make_feature_data,
    make_feature_validation,
    make_head_student,
    with_features,
)
from stages.distill.data.targets import Targets, load_targets
from stages.distill.data.training_data import TrainingData, make_data
from stages.distill.data.training_pairs import TrainingPairs, choose_pairs
from stages.distill.fine_tuning import note_seen_images, origins, start_of
from stages.distill.objectives import WeightedObjectives
from stages.distill.reporting.metric_log import Metrics
from stages.distill.reporting.trackers import make_reporters
from stages.distill.results import student_config, training_counts, write_rejected_pairs
from stages.distill.training.loop import Observers, Training
from stages.distill.training.model import TrainedModel
from stages.distill.training.profiler import NoClock, StepClock
from stages.distill.training.settings import RunSettings, Schedule
from stages.distill.training.training_device import training_device
from stages.distill.training.validation import Validation

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillRuntime, DistillSources


def train_student(
    params: "DistillParams", runtime: "DistillRuntime", *, sources: "DistillSources", draft: Draft, context: Context
) -> Result:
    """Train a student against an artifact of embeddings, into a draft; the first of several processes writes.

    Raises:
        ProtoRKDError: the embeddings are damaged, the student or an objective is unknown, too many images cannot be
            read, the loss is no longer finite, or an operation is to be deterministic and cannot.
    """
    images = _images(sources, runtime)
    settings = _settings(params, runtime, images)
    ranks = ranks_of(context.peers).within(runtime.step_timeout_minutes)
    context = replace(context, peers=ranks)
    if ranks.is_first:
        log.info("distill: on %s", describe_work(settings.device, precision=settings.precision))
    what = f"--student {params.student}" if sources.features is None else f"--head {params.head}"
    trained = f"{what} and --loss {', '.join(params.loss)}"
    with training_device(settings.device, deterministic=runtime.deterministic, trained=trained):
        return _train(params, runtime, settings, images, sources=sources, draft=draft, context=context)


def _train(
    params: "DistillParams",
    runtime: "DistillRuntime",
    settings: RunSettings,
    images: ImageSet,
    *,
    sources: "DistillSources",
    draft: Draft,
    context: Context,
) -> Result:
    embeddings = sources.embeddings.value
    device, ranks = settings.device, ranks_of(context.peers)
    if settings.workers and sources.features is None:
        start_server()  # gets ready while the rest is made
    placement = runtime.targets_placement
    targets = load_targets(embeddings, placement=placement, device=device, draft=draft, ranks=ranks)
    most_missing = settings.max_rejected + len(images.missing)
    pairs = choose_pairs(params, embeddings=embeddings, images=images, targets=targets, max_missing=most_missing)
    features = None
    if sources.features is not None:
        features = load_cached_features(
            sources.features.value, pairs, placement=placement, device=device, draft=draft, ranks=ranks
        )

    used = origins(sources) if features is None else features.digests
    for digest in used:
        context.use(digest)
    prototypes = PrototypeMaps(
        named=named_prototypes(sources, dim=targets.dim),
        embeddings=embeddings,
        num_captions=targets.num_captions,
        device=device,
        ranks=ranks,
        context=context,
    )
    model, preprocessing, architecture = _model(
        params,
        runtime,
        settings,
        pairs,
        targets=targets,
        features=features,
        prototypes=prototypes,
        sources=sources,
        context=context,
    )
    pairs = replace(pairs, order=make_order(params, pairs.examples, targets=targets, prototypes=prototypes))
    data, validate = _data(
        params,
        settings,
        pairs,
        targets=targets,
        objectives=model.objectives,
        features=features,
        preprocessing=preprocessing,
        ranks=ranks,
    )
    observers = Observers(
        metrics=_metrics(params, runtime, sources=sources, draft=draft, ranks=ranks),
        clock=StepClock(draft.logs, device) if runtime.profile and ranks.is_first else NoClock(),
        validate=validate,
    )
    training = Training(data, model, _schedule(params), settings, observers, ranks=ranks, draft=draft)
    if ranks.is_first:  # before the first checkpoint, so that evaluation can watch
        dims = {"teacher_dim": targets.dim, "embedding_dim": model.student.embedding_dim}
        described = _config(
            params, preprocessing, embeddings, features, start=start_of(sources), architecture=architecture, **dims
        )
        described.write(draft.path)
    progress = training.run()
    if ranks.is_first:
        save_weights(model.kept_student, draft.path / WEIGHTS_NAME)
        write_rejected_pairs(draft, pairs, progress)
    return Result(
        counts=training_counts(params, pairs, progress),
        uses=(*sorted(prototypes.used), *used),
        environment={"device": gpu_name(device), "precision": settings.precision, "processes": str(ranks.size)},
    )


def _images(sources: "DistillSources", runtime: "DistillRuntime") -> ImageSet:
    """Return the images of the pairs; in a training on features they are known by their rows alone.

    Raises:
        ProtoRKDError: the features are of other images than the pairs name.
    """
    if sources.features is None:
        assert sources.images is not None
        return sources.images.value
    features, embeddings = sources.features.value, sources.embeddings.value
    images = find_features(features, embeddings)
    most_missing = int(runtime.max_bad_fraction * len(images.paths))
    check_matched(images, features=features, embeddings=embeddings, most_missing=most_missing)
    return images


def _model(
    params: "DistillParams",
    runtime: "DistillRuntime",
    settings: RunSettings,
    pairs: TrainingPairs,
    *,
    targets: Targets,
    features: CachedFeatures | None,
    prototypes: PrototypeMaps,
    sources: "DistillSources",
    context: Context,
) -> tuple[TrainedModel, Preprocessing, dict[str, Any] | None]:
    """Make the trained model, its preprocessing and architecture."""
    device, ranks = settings.device, ranks_of(context.peers)
    torch.manual_seed(params.seed)
    architecture, start = None, start_of(sources)
    if start is not None:
        if ranks.is_first:
            note_seen_images(params, start)
        student = take_student(params, start, teacher_dim=targets.dim, device=device, ranks=ranks, store=context.store)
        preprocessing, architecture = start.config.preprocessing, start.config.architecture
    elif features is None:
        student, preprocessing, architecture = make_student(
            params, sources, teacher_dim=targets.dim, device=device, ranks=ranks
        )
    else:
        student = make_head_student(params, features, teacher_dim=targets.dim, device=device, ranks=ranks)
        preprocessing = features.preprocessing
    if sources.init_from is not None:
        context.check_inputs()
    objectives = make_objectives(
        params, targets=targets, prototypes=prototypes, num_labels=pairs.num_labels, device=device
    )
    model = make_model(
        params,
        settings,
        student,
        objectives,
        checkpoint_gradients=runtime.checkpoint_gradients,
    )
    return model, preprocessing, architecture


def _config(
    params: "DistillParams",
    preprocessing: Preprocessing,
    embeddings: Artifact,
    features: CachedFeatures | None,
    *,
    start: StudentWeights | None,
    architecture: dict[str, Any] | None,
    teacher_dim: int,
    embedding_dim: int,
) -> StudentConfig:
    """Describe the student, of a head on features the backbone as well, and the head that it started with."""
    config = student_config(params, preprocessing, embeddings, teacher_dim=teacher_dim, embedding_dim=embedding_dim)
    if features is not None:
        return with_features(config, params, features)
    return replace(config, architecture=architecture, head=None if start is None else start.config.head)


def _data(
    params: "DistillParams",
    settings: RunSettings,
    pairs: TrainingPairs,
    *,
    targets: Targets,
    objectives: WeightedObjectives,
    features: CachedFeatures | None,
    preprocessing: Preprocessing,
    ranks: Ranks,
) -> tuple[TrainingData, Validation | None]:
    """Put together what the student learns from, and what it is measured on."""
    if features is None:
        data = make_data(
            params,
            pairs,
            targets=targets,
            objectives=objectives,
            preprocessing=preprocessing,
            device=settings.device,
            ranks=ranks,
        )
        return data, make_validation(params, settings, pairs, targets=targets, preprocessing=preprocessing, ranks=ranks)
    data = make_feature_data(
        params, pairs, features, targets=targets, objectives=objectives, device=settings.device, ranks=ranks
    )
    return data, make_feature_validation(params, settings, pairs, features, targets=targets, ranks=ranks)


def _settings(params: "DistillParams", runtime: "DistillRuntime", images: ImageSet) -> RunSettings:
    device = choose_device(runtime.device)
    return RunSettings(
        device=device,
        precision=choose_precision(params.precision, device),
        compiled=runtime.compile,
        workers=num_workers(runtime.workers),
        save_every_minutes=runtime.save_every_minutes,
        max_rejected=int(runtime.max_bad_fraction * len(images.paths)) - len(images.missing),
    )


def _schedule(params: "DistillParams") -> Schedule:
    return Schedule(
        epochs=params.epochs,
        lr=params.lr,
        warmup_steps=params.warmup_steps,
        max_grad_norm=params.max_grad_norm,
        save_every_epochs=params.save_every_epochs,
        seed=params.seed,
    )


def _metrics(
    params: "DistillParams", runtime: "DistillRuntime", *, sources: "DistillSources", draft: Draft, ranks: Ranks
) -> Metrics:
    """Open the log of metrics, and the trackers that listen to it; the first rank alone has any."""
    path = draft.logs / METRICS_NAME
    if not ranks.is_first:
        return Metrics(path, every=runtime.log_every_steps, enabled=False)
    name = draft.path.name.removeprefix(DRAFT_PREFIX)[:12]
    reporters = make_reporters(runtime.report_to, draft.logs, name, resolved_options(params, runtime, sources))
    return Metrics(path, every=runtime.log_every_steps, reporters=reporters)


def resolved_options(
    params: "DistillParams", runtime: "DistillRuntime", sources: "DistillSources"
) -> dict[str, object]:
    """List all options of a training for trackers, with the locations and identities of its inputs."""
    identified = hashed_inputs(sources).items()
    places = {name: entry.location for name, entry in identified}
    digests = {f"{name}_digest": entry.digest for name, entry in identified}
    return {**asdict(params), **asdict(runtime), **places, **digests}
