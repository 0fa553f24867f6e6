"""Build the parts of a training, each from its own options."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from data_schemas.neighbours import Neighbours
from data_schemas.prototypes import Prototypes
from pipeline.log import log
from pipeline.runner import make_artifact
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store
from stages.components.backbones.initial_weights import load_initial_weights, load_published_weights
from stages.components.backbones.registry import build_backbone, published_name
from stages.components.compute.distributed import Ranks
from stages.components.compute.precision import autocast
from stages.components.embeddings.neighbours.stage import make_neighbours
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.student.adapters import add_adapters
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.embedder import load_identified
from stages.components.student.gradient_checkpointing import enable_gradient_checkpointing
from stages.components.student.heads import FeatureHead
from stages.components.student.student import Student, add_head, freeze_backbone, freeze_batchnorm, train_last_blocks
from stages.components.student.weights import load_student
from stages.distill.data.balanced_order import balanced_episodes, balanced_weights, nearest_prototypes
from stages.distill.data.batch_order import Order, episodes
from stages.distill.data.examples import Examples
from stages.distill.data.held_out import HeldOutImages
from stages.distill.data.neighbour_batches import neighbour_examples, with_neighbours
from stages.distill.data.targets import Targets
from stages.distill.data.training_pairs import TrainingPairs
from stages.distill.fine_tuning import last_blocks
from stages.distill.loss_spec import parse_loss_options, parse_losses
from stages.distill.objectives import WeightedObjectives, build_objective, read_options
from stages.distill.training.ema import EMA
from stages.distill.training.model import TrainedModel
from stages.distill.training.optimizer import AdamWSettings, build_optimizer
from stages.distill.training.settings import RunSettings
from stages.distill.training.sync_batchnorm import sync_batchnorm
from stages.distill.training.validation import HeldOutReader, Validation

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillSources

_CAPTIONS_PER_PROTOTYPE = 4
_NUM_NEIGHBOURS = 32  # of a caption; part of what --neighbour-batches asks for


def make_student(
    params: "DistillParams", sources: "DistillSources", *, teacher_dim: int, device: torch.device, ranks: Ranks
) -> tuple[Student, Preprocessing, dict[str, Any] | None]:
    """Build the student with its starting weights, the preprocessing of its images, and its backbone's architecture.

    Raises:
        ProtoRKDError: the student is unknown, or its starting weights are not its own.
    """
    name = published_name(params.student, params.pretrained) if params.pretrained else params.student
    built = build_backbone(
        name,
        image_size=params.image_size,
        pooling=params.pooling,
        source=None if sources.architecture is None else sources.architecture.value,
    )
    student = add_head(
        built,
        name=name,
        embedding_dim=params.projection_dim or teacher_dim,
        projection_layers=params.projection_layers,
    )
    start = None
    if sources.pretrained is not None:
        start = load_published_weights(built, sources.pretrained.value, backbone_name=name)
    elif sources.init_from is not None:
        start = load_initial_weights(built, sources.init_from.value, backbone_name=name)
    preprocessing = Preprocessing(image_size=params.image_size)  # of random weights, whatever the backbone
    if start is not None:
        log.info("distill: the backbone starts from %d tensors of %s", start.num_tensors, start.format)
        preprocessing = replace(built.preprocessing, mean=start.mean, std=start.std)
    freeze_parts(params, student)
    return place_student(params, student, device=device, ranks=ranks), preprocessing, built.architecture


def take_student(
    params: "DistillParams",
    start: StudentWeights,
    *,
    teacher_dim: int,
    device: torch.device,
    ranks: Ranks,
    store: Store,
) -> Student:
    """Take a student whole, so that its head and the part of its backbone that is to train go on from where they are.

    Raises:
        ProtoRKDError: its weights or its backbone are gone, its embeddings are of another width, or its backbone has
            not so many blocks.
    """
    config, dim = start.config, params.projection_dim or teacher_dim
    if config.embedding_dim != dim:
        raise ProtoRKDError(
            f"--from-student must be of the width that is asked for, {dim}; got embeddings of {config.embedding_dim}. "
            "Name a student of the same teacher, or its width by --projection-dim."
        )
    cpu = torch.device("cpu")
    found = load_identified(start, lambda path: load_student(config, path, device=cpu, store=store))
    built = build_backbone(
        config.backbone,
        image_size=config.preprocessing.image_size,
        pooling=config.pooling,
        architecture=config.architecture,
    )
    built.network.load_state_dict(found.backbone.state_dict())  # into one that is not frozen
    student = Student(backbone=built.network, head=found.head, feature_dim=found.feature_dim, embedding_dim=dim).train()
    if isinstance(student.head, FeatureHead):
        student.head.noise = params.feature_noise
    freeze_parts(params, student)
    return place_student(params, student, device=device, ranks=ranks)


def freeze_parts(params: "DistillParams", student: Student) -> None:
    """Freeze what of a student is not to train, before it is moved to its device.

    Raises:
        ProtoRKDError: its backbone has not so many blocks, or takes no adapters.
    """
    if params.freeze_backbone:
        freeze_backbone(student)
    elif params.lora:
        num_layers = add_adapters(student, rank=params.lora, image_size=params.image_size)
        log.info("distill: %d linear layers of the backbone have adapters of rank %d", num_layers, params.lora)
    elif num_blocks := last_blocks(params.unfreeze):
        train_last_blocks(student, num_blocks)
    if params.freeze_batchnorm in ("backbone", "all"):
        freeze_batchnorm(student, "" if params.freeze_batchnorm == "all" else "backbone")


def place_student(params: "DistillParams", student: Student, *, device: torch.device, ranks: Ranks) -> Student:
    """Move a student to its device, and let its batch normalisation see all ranks where that is asked for."""
    student = student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if params.sync_batchnorm:
        sync_batchnorm(student, ranks, device)
    elif ranks.size > 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        log.info("distill: each of %d processes normalises its own part of a batch (--sync-batchnorm)", ranks.size)
    return student


def make_model(
    params: "DistillParams",
    settings: RunSettings,
    student: Student,
    objectives: WeightedObjectives,
    *,
    checkpoint_gradients: bool,
) -> TrainedModel:
    """Add optimizer and loss scaler to a student and its objectives, and a mean of weights if one is asked for."""
    ema = EMA(student, decay=params.ema_decay) if params.ema_decay else None  # copies the student before it is compiled
    speed_up(student, compile_=settings.compiled, checkpoint_gradients=checkpoint_gradients)
    adamw = AdamWSettings(
        lr=params.lr,
        weight_decay=params.weight_decay,
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        backbone_lr_scale=params.backbone_lr_scale or 1.0,
    )
    return TrainedModel(
        student=student,
        objectives=objectives,
        optimizer=build_optimizer(student, objectives, adamw),
        loss_scaler=torch.amp.GradScaler(settings.device.type, enabled=settings.precision == "fp16"),
        ema=ema,
    )


def hold_out(params: "DistillParams", pairs: TrainingPairs, *, targets: Targets) -> HeldOutImages | None:
    """Collect the images to validate on, or None where no pairs are held out.

    Raises:
        ProtoRKDError: the student's embeddings are not of the teacher's width.
    """
    if not len(pairs.held_out):
        return None
    if params.projection_dim not in (0, targets.dim):
        raise ProtoRKDError(
            f"--validation-fraction must go with embeddings of the teacher's width, {targets.dim}; got "
            f"--projection-dim {params.projection_dim}. Leave one of them out."
        )
    caption_rows = torch.from_numpy(pairs.caption_rows)
    return HeldOutImages.of(pairs.images, torch.from_numpy(pairs.held_out), caption_rows=caption_rows)


def make_validation(
    params: "DistillParams",
    settings: RunSettings,
    pairs: TrainingPairs,
    *,
    targets: Targets,
    preprocessing: Preprocessing,
    ranks: Ranks,
) -> Validation | None:
    """Make the validation on held-out pairs, or None where no pairs are held out.

    Raises:
        ProtoRKDError: the student's embeddings are not of the teacher's width.
    """
    held_out = hold_out(params, pairs, targets=targets)
    if held_out is None:
        return None
    transform = EvalTransform(preprocessing)
    return Validation(
        held_out,
        targets=targets,
        read=HeldOutReader(held_out.images, transform, batch_size=params.batch_size, workers=settings.workers),
        prepare=Normalize(preprocessing, settings.device),
        in_precision=autocast(settings.precision, settings.device),
        ranks=ranks,
    )


def speed_up(student: Student, *, compile_: bool, checkpoint_gradients: bool) -> None:
    """Make the student faster, or smaller in memory, without changing what it computes."""
    if checkpoint_gradients:
        num_blocks = enable_gradient_checkpointing(student.backbone)
        log.info("distill: %d blocks of the backbone are recomputed in the backward pass", num_blocks)
    if compile_:
        student.compile()


@dataclass
class PrototypeMaps:
    """Find centroids by number of prototypes: in the artifact that was named, or made when first asked for.

    Args:
        named: Artifact that was named, which then serves every number; None makes what is missing.
        embeddings: Embeddings whose captions are clustered.
        num_captions: Number of distinct captions; at most a fourth as many prototypes are made, so that each stands for
            some captions.
        device: Device on which centroids are wanted, and made.
        ranks: Ranks that train together; the first makes, all read.
        context: Context of the stage, with its store.
        used: Digests of the artifacts that were read.
    """

    named: Artifact | None
    embeddings: Artifact
    num_captions: int
    device: torch.device
    ranks: Ranks
    context: Context
    used: set[str] = field(default_factory=set)

    def __call__(self, num_prototypes: int) -> Tensor:
        """Find the centroids: (num_prototypes, dim), float32, on the device.

        Raises:
            ProtoRKDError: there are too few captions, or the artifact is damaged.
        """
        artifact = self.named
        if artifact is None:
            if self.num_captions < 2:
                raise ProtoRKDError(
                    f"An objective that relates to prototypes must have 2 distinct captions or more; got "
                    f"{self.num_captions}. Choose another --loss, or encode more captions."
                )
            most = max(2, self.num_captions // _CAPTIONS_PER_PROTOTYPE)
            if num_prototypes > most:
                log.info("distill: %d prototypes in place of %d, for want of captions", most, num_prototypes)
            found = self._make(min(num_prototypes, most)) if self.ranks.is_first else None
            artifact = self.ranks.broadcast(found)
        artifact.require_whole(read=True)
        self.used.add(artifact.record.digest)
        return torch.from_numpy(Prototypes.read(artifact.path).centroids).to(self.device)

    def _make(self, num_prototypes: int) -> Artifact:
        inputs = {"embeddings": str(self.embeddings.path)}
        return make_artifact(
            "prototypes",
            params={"num_prototypes": num_prototypes},
            inputs=inputs,
            runtime={"device": self.device.type},
            context=self.context,
        )


def make_objectives(
    params: "DistillParams", *, targets: Targets, prototypes: PrototypeMaps, num_labels: int, device: torch.device
) -> WeightedObjectives:
    """Build what ``--loss`` and ``--loss-option`` name.

    Raises:
        ProtoRKDError: an objective or an option is unknown, or an option has a value that is not allowed.
    """
    losses = parse_losses(params.loss)
    texts = parse_loss_options(params.loss_option, losses)
    objectives = {}
    for name, weight in losses.items():
        objective = build_objective(
            name,
            dim=targets.dim,
            corpus=targets,
            prototypes=prototypes,
            num_labels=num_labels,
            **read_options(name, texts.get(name, {})),
        )
        objectives[name] = (weight, objective)
    return WeightedObjectives(objectives).to(device)


def make_order(
    params: "DistillParams", examples: Examples, *, targets: Targets, prototypes: PrototypeMaps
) -> Order | None:
    """Make the order of a training that draws by clusters or gathers neighbours; None where it does neither."""
    if params.neighbour_batches:
        return _neighbour_order(params, examples, prototypes)
    return _balanced_order(params, examples, targets, prototypes) if params.balance else None


def _neighbour_order(params: "DistillParams", examples: Examples, made: PrototypeMaps) -> Order:
    artifact = make_neighbours(
        made.embeddings, num_neighbours=_NUM_NEIGHBOURS, device=made.device.type, context=made.context
    )
    made.used.add(artifact.record.digest)
    rows = examples.caption_rows(torch.arange(examples.num), epoch=0).numpy()
    neighbours = neighbour_examples(rows, Neighbours.read(artifact.path).rows)
    order = partial(episodes, examples.num, params.episode_size or examples.num, seed=params.seed)
    sizes = [len(part) for part in np.array_split(np.arange(params.batch_size), params.accumulate_steps)]
    return partial(with_neighbours, order, neighbours, sizes=sizes, share=params.neighbour_batches)


def _balanced_order(params: "DistillParams", examples: Examples, targets: Targets, prototypes: PrototypeMaps) -> Order:
    centroids = prototypes(params.balance_prototypes)
    clusters = None
    if prototypes.ranks.is_first:  # another device might round otherwise, and all must draw the same
        rows = examples.caption_rows(torch.arange(examples.num), epoch=0)
        clusters = nearest_prototypes(targets, rows, centroids)  # (examples,)
    weights = balanced_weights(prototypes.ranks.broadcast(clusters), params.balance)
    log.info(
        "distill: with --balance %g an example is drawn %.2g to %.2g times an epoch",
        params.balance, *(np.array([weights.min(), weights.max()]) * (params.episode_size or examples.num)),
    )  # fmt: skip
    return partial(balanced_episodes, weights, params.episode_size or examples.num, seed=params.seed)


def named_prototypes(sources: "DistillSources", *, dim: int) -> Artifact | None:
    """Find the artifact of prototypes that was named; None if none was.

    Raises:
        ProtoRKDError: its prototypes are of another width than the targets.
    """
    if sources.prototypes is None:
        return None
    artifact = sources.prototypes.value
    width = Prototypes.read(artifact.path).centroids.shape[1]
    if width != dim:
        raise ProtoRKDError(
            f"--prototypes must be of the teacher's width, {dim}; got {artifact.path} of {width}. "
            "Make them from the same embeddings."
        )
    return artifact
