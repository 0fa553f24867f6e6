"""Build the parts of a training on cached features: the head, its inputs, and what it is measured by."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from data_schemas.images.image_features import FeaturesConfig
from data_schemas.images.student_checkpoint import HeadConfig, Preprocessing, StudentConfig
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.distributed import Ranks
from stages.components.compute.precision import autocast
from stages.components.embeddings.feature_images import FeatureImages
from stages.components.student.heads import LINEAR, build_feature_head
from stages.components.student.student import Student
from stages.distill.build import hold_out, place_student
from stages.distill.data.example_features import ExampleFeatures, HeldOutFeatures, all_rows
from stages.distill.data.feature_noise import FeatureMixup, FeatureNoise
from stages.distill.data.feature_statistics import FeatureStatistics
from stages.distill.data.targets import EmbeddingTable, Targets, load_features
from stages.distill.data.training_data import TrainingData, join_data
from stages.distill.data.training_pairs import TrainingPairs
from stages.distill.objectives import WeightedObjectives
from stages.distill.training.settings import RunSettings
from stages.distill.training.validation import Validation

if TYPE_CHECKING:
    from stages.distill.options import DistillParams


@dataclass(frozen=True)
class CachedFeatures:
    """The features that a head is trained on.

    Args:
        table: Features; row ``image_row * views + view`` belongs to a view of an image.
        config: What computed them.
        statistics: Their statistics over the images that are trained on.
        digest: Digest of their artifact.
    """

    table: EmbeddingTable
    config: FeaturesConfig
    statistics: FeatureStatistics
    digest: str

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the artifacts that the student needs: these features, and the backbone, where there is one."""
        backbone = self.config.backbone_digest
        return (self.digest, backbone) if backbone else (self.digest,)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the backbone's images; of size 0 for vectors that another tool computed."""
        backbone = self.config.backbone
        return Preprocessing(image_size=0) if backbone is None else backbone.preprocessing


def load_cached_features(
    artifact: Artifact, pairs: TrainingPairs, *, placement: str, device: torch.device, draft: Draft, ranks: Ranks
) -> CachedFeatures:
    """Read the features, and measure them over the images that are trained on, on the first rank.

    Raises:
        ProtoRKDError: they are damaged.
    """
    table = load_features(artifact, placement=placement, device=device, draft=draft, ranks=ranks)
    config = FeaturesConfig.read(artifact.path)
    statistics = None
    if ranks.is_first:
        rows = all_rows(images_of(pairs), pairs.examples.pairs, views=config.views)
        statistics = FeatureStatistics.over(table, rows)
    return CachedFeatures(table, config, ranks.broadcast(statistics), artifact.record.digest)


def make_head_student(
    params: "DistillParams", features: CachedFeatures, *, teacher_dim: int, device: torch.device, ranks: Ranks
) -> Student:
    """Make a student whose backbone has done its work: features in, embeddings out.

    Raises:
        ProtoRKDError: there is no such head.
    """
    dim, embedding_dim = features.table.dim, params.projection_dim or teacher_dim
    head = build_feature_head(head_config(params, feature_dim=dim), feature_dim=dim, embedding_dim=embedding_dim)
    head.set_statistics(mean=features.statistics.mean, std=features.statistics.std)
    student = Student(backbone=nn.Identity(), head=head, feature_dim=dim, embedding_dim=embedding_dim)
    return place_student(params, student, device=device, ranks=ranks)


def head_config(params: "DistillParams", *, feature_dim: int) -> HeadConfig:
    """Settle the head that the options ask for."""
    width = 0 if params.head == LINEAR else params.head_width or feature_dim
    return HeadConfig(params.head, width=width, dropout=params.head_dropout)


def make_feature_data(
    params: "DistillParams",
    pairs: TrainingPairs,
    features: CachedFeatures,
    *,
    targets: Targets,
    objectives: WeightedObjectives,
    device: torch.device,
    ranks: Ranks,
) -> TrainingData:
    """Put together the features, the targets and the order of a training.

    Raises:
        ProtoRKDError: batches or episodes are too small for the ranks and micro-batches, or larger than the whole.
    """
    mixup = FeatureMixup(params.feature_mixup, seed=params.seed) if params.feature_mixup else None
    source = ExampleFeatures(
        features.table,
        images_of(pairs),
        pairs.examples.pairs,
        views=features.config.views,
        mixup=mixup,
        seed=params.seed,
    )
    noise = FeatureNoise((params.feature_noise * features.statistics.std).to(device))
    return join_data(params, pairs, source, noise, targets=targets, objectives=objectives, ranks=ranks, mixup=mixup)


def make_feature_validation(
    params: "DistillParams",
    settings: RunSettings,
    pairs: TrainingPairs,
    features: CachedFeatures,
    *,
    targets: Targets,
    ranks: Ranks,
) -> Validation | None:
    """Make the validation on the features of held-out images, or None where none are held out.

    Raises:
        ProtoRKDError: the student's embeddings are not of the teacher's width.
    """
    held_out = hold_out(params, pairs, targets=targets)
    if held_out is None:
        return None
    assert isinstance(held_out.images, FeatureImages)
    return Validation(
        held_out,
        targets=targets,
        read=HeldOutFeatures(
            features.table, held_out.images, views=features.config.views, batch_size=params.batch_size
        ),
        prepare=_as_they_are,
        in_precision=autocast(settings.precision, settings.device),
        ranks=ranks,
    )


def with_features(config: StudentConfig, params: "DistillParams", features: CachedFeatures) -> StudentConfig:
    """Describe the backbone and the head of a student that was trained on features; "" names no backbone."""
    backbone = features.config.backbone
    return replace(
        config,
        backbone="" if backbone is None else backbone.name,
        projection_layers=0,
        pooling="native" if backbone is None else backbone.pooling,
        architecture=None if backbone is None else backbone.architecture,
        head=head_config(params, feature_dim=features.table.dim),
        backbone_digest=features.config.backbone_digest,
    )


def images_of(pairs: TrainingPairs) -> FeatureImages:
    """Return the images of pairs as what they are in a training on features."""
    assert isinstance(pairs.images, FeatureImages)
    return pairs.images


def _as_they_are(features: Tensor) -> Tensor:
    return features
