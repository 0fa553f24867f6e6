"""What a training is made of, each part from the options that it answers to."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_labels, read_pairs
from data_schemas.prototypes import Prototypes
from data_schemas.student_checkpoint import Preprocessing
from pipeline.log import log
from pipeline.runner import make_artifact
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.compute.distributed import Ranks
from stages.components.images.image_set import ImageSet
from stages.components.student.gradient_checkpointing import enable_gradient_checkpointing
from stages.components.student.initial_weights import load_initial_weights, load_pretrained
from stages.components.student.student import Student, build_student, freeze_backbone
from stages.distill.data.examples import Examples, split_validation
from stages.distill.data.targets import Targets
from stages.distill.loss_spec import parse_loss_options, parse_losses
from stages.distill.objectives import WeightedObjectives, build_objective, read_options
from stages.distill.training.sync_batchnorm import sync_batchnorm

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillSources

_CAPTIONS_PER_PROTOTYPE = 4


@dataclass(frozen=True)
class TrainingPairs:
    """The pair index, and what of it is trained on.

    Args:
        manifest_rows: by pair.
        caption_rows: by pair.
        examples: to train on.
        held_out: pairs of the images that are kept for validation.
        num_zero: pairs left out, for their captions have the zero vector.
        num_labels: distinct labels.

    Shapes:
        manifest_rows, caption_rows: (pairs,), int64.
        held_out: (validation pairs,), int64.
    """

    manifest_rows: NDArray[np.int64]
    caption_rows: NDArray[np.int64]
    examples: Examples
    held_out: NDArray[np.int64]
    num_zero: int
    num_labels: int

    @property
    def num(self) -> int:
        """How many pairs there are in all."""
        return len(self.manifest_rows)


def choose_pairs(
    params: "DistillParams", *, embeddings: Artifact, images: ImageSet, targets: Targets, max_missing: int
) -> TrainingPairs:
    """Leave out pairs without an image, or with a caption that the teacher does not know; hold out a slice.

    Raises:
        ProtoRKDError: more images are missing than ``max_missing``, or too few pairs are left.
    """
    table = read_pairs(embeddings.path)
    names, labels = read_labels(embeddings.path)
    caption_rows = table["caption_row"].to_numpy().copy()  # torch wants arrays that it could write to
    is_zero = targets.is_zero().numpy()[caption_rows]
    usable = _usable(images, is_zero, max_missing=max_missing)
    to_train, held_out = split_validation(table, usable, fraction=params.validation_fraction, seed=params.seed)
    examples = Examples.of(
        table, to_train, captions_per_image=params.captions_per_image, labels=labels, seed=params.seed
    )
    return TrainingPairs(
        manifest_rows=table["manifest_row"].to_numpy(),
        caption_rows=caption_rows,
        examples=examples,
        held_out=held_out,
        num_zero=int(is_zero.sum()),
        num_labels=len(names),
    )


def make_student(
    params: "DistillParams", inputs: "DistillSources", *, teacher_dim: int, device: torch.device, ranks: Ranks
) -> tuple[Student, Preprocessing]:
    """Build the student, give it the weights that it starts from, and say what its images have to look like.

    Raises:
        ProtoRKDError: the student is unknown, or its starting weights are not its own.
    """
    if params.pretrained and inputs.init_from is not None:
        raise ProtoRKDError("Only one of --pretrained and --init-from must be given; got both. Leave one out.")
    student = build_student(
        params.student,
        embedding_dim=params.projection_dim or teacher_dim,
        image_size=params.image_size,
        projection_layers=params.projection_layers,
    )
    preprocessing = Preprocessing(image_size=params.image_size)
    start = None
    if params.pretrained:
        start = load_pretrained(
            student.backbone, params.pretrained, backbone_name=params.student, image_size=params.image_size
        )
    elif inputs.init_from is not None:
        start = load_initial_weights(student.backbone, inputs.init_from.value, backbone_name=params.student)
    if start is not None:
        log.info("distill: the backbone starts from %d tensors of %s", start.num_tensors, start.format)
        preprocessing = Preprocessing(image_size=params.image_size, mean=start.mean, std=start.std)
    if params.freeze_backbone:
        freeze_backbone(student)
    student = student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if params.sync_batchnorm:
        sync_batchnorm(student, ranks, device)
    elif ranks.size > 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        log.info("distill: each of %d processes normalises its own part of a batch (--sync-batchnorm)", ranks.size)
    return student, preprocessing


def speed_up(student: Student, *, compile_: bool, checkpoint_gradients: bool) -> None:
    """Make the student faster, or smaller in memory, without changing what it computes."""
    if checkpoint_gradients:
        num_blocks = enable_gradient_checkpointing(student.backbone)
        log.info("distill: %d blocks of the backbone are recomputed in the backward pass", num_blocks)
    if compile_:
        student.compile()


@dataclass
class PrototypeMaps:
    """Centroids by number of prototypes: from the artifact that was named, or made when first asked for.

    Args:
        named: that was named, for every number.
        embeddings: whose captions are clustered.
        num_captions: at most a fourth of so many prototypes are made, so that each stands for some captions.
        device: where centroids are wanted, and made.
        ranks: the first makes, all read.
        context: the store.
        used: digests of the artifacts that were read.
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
        ProtoRKDError: an objective or an option is unknown, or an option has a value that does not do.
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


def named_prototypes(inputs: "DistillSources", *, dim: int) -> Artifact | None:
    """The artifact of prototypes that was named, if one was.

    Raises:
        ProtoRKDError: its prototypes are of another width than the targets.
    """
    if inputs.prototypes is None:
        return None
    artifact = inputs.prototypes.value
    width = Prototypes.read(artifact.path).centroids.shape[1]
    if width != dim:
        raise ProtoRKDError(
            f"--prototypes must be of the teacher's width, {dim}; got {artifact.path} of {width}. "
            "Make them from the same embeddings."
        )
    return artifact


def _usable(images: ImageSet, is_zero: NDArray[np.bool_], *, max_missing: int) -> NDArray[np.int64]:
    if len(images.missing) > max_missing:
        first = min(images.missing)
        raise ProtoRKDError(
            f"At most {max_missing} images may be missing (--max-bad-fraction); got {len(images.missing)} of "
            f"{len(images.paths)}, first {images.root / images.paths[first]}: {images.missing[first]}. Pass "
            "--image-root, mend the paths, or raise --max-bad-fraction."
        )
    usable = ~is_zero
    usable[list(images.missing)] = False
    if images.missing:
        log.info("distill: %d images are missing; their pairs are left out", len(images.missing))
    if is_zero.any():
        log.info("distill: %d pairs are left out, for the teacher knows no word of their captions", is_zero.sum())
    chosen = np.flatnonzero(usable)
    if len(chosen) < 2:
        raise ProtoRKDError(
            f"Training must have 2 usable pairs or more; got {len(chosen)} of {len(usable)}, for {len(images.missing)} "
            f"images are missing, and the teacher knows no word of {is_zero.sum()} captions. Give more pairs, mend "
            "the paths, or encode with another teacher."
        )
    return chosen
