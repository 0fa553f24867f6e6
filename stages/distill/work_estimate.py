"""Estimate the work of a training: its examples and steps, and the bytes of the weights that it keeps."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from data_schemas.embedding_array import FEATURE_KIND, EmbeddingArray
from data_schemas.pair_index import read_pairs
from pipeline.stage import Work
from stages.components.backbones.registry import build_backbone
from stages.components.embeddings.feature_images import find_features
from stages.components.images.image_set import ImageSet
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.heads import build_feature_head
from stages.components.student.student import build_student
from stages.distill.build_features import head_config

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillSources


def training_work(params: "DistillParams", sources: "DistillSources") -> Work:
    """Count as the stage does, except for what only embeddings tell, such as captions that the teacher does not know.

    Raises:
        ProtoRKDError: the student is unknown, or does not take images of that size.
    """
    embeddings = sources.embeddings.value
    pairs = read_pairs(embeddings.path)
    readable = pairs.num_rows - len(_images(sources).missing)
    num_images = len(pairs["image"].unique())
    examples = readable if params.captions_per_image == "each" else min(num_images, readable)
    examples = max(2, round(examples * (1 - params.validation_fraction)))
    steps = params.epochs * math.ceil((params.episode_size or examples) / params.batch_size)
    kept = math.ceil(params.epochs / params.save_every_epochs) + 1  # the last stands there twice
    return Work(
        counts={"pairs": pairs.num_rows, "images": num_images, "examples": examples, "steps": steps},
        paced_by="steps",
        like=(
            "student",
            "image_size",
            "batch_size",
            "loss",
            "freeze_backbone",
            "head",
            "head_width",
            "unfreeze",
            "lora",
        ),
        size=kept * _weight_bytes(params, sources, EmbeddingArray.open(embeddings.path).dim),
    )


def _images(sources: "DistillSources") -> ImageSet:
    if sources.images is not None:
        return sources.images.value
    assert sources.features is not None
    return find_features(sources.features.value, sources.embeddings.value)


def _weight_bytes(params: "DistillParams", sources: "DistillSources", teacher_dim: int) -> int:
    if sources.from_student is not None:
        return _bytes_from(sources.from_student.value)
    embedding_dim = params.projection_dim or teacher_dim
    student: nn.Module
    with torch.device("meta"):  # shapes without numbers
        if sources.features is None:
            student = build_student(
                params.student,
                embedding_dim=embedding_dim,
                image_size=params.image_size,
                projection_layers=params.projection_layers,
                pooling=params.pooling,
            )
        else:
            dim = EmbeddingArray.open(sources.features.value.path, kind=FEATURE_KIND).dim
            config = head_config(params, feature_dim=dim)
            student = build_feature_head(config, feature_dim=dim, embedding_dim=embedding_dim)
    return sum(tensor.nbytes for tensor in student.state_dict().values())


def _bytes_from(student: StudentWeights) -> int:
    """Count the bytes of a student whose backbone's weights become its own."""
    size, config = student.weights.stat().st_size, student.config
    if not config.is_head_alone:
        return size
    with torch.device("meta"):
        built = build_backbone(
            config.backbone,
            image_size=config.preprocessing.image_size,
            pooling=config.pooling,
            architecture=config.architecture,
        )
    return size + sum(int(tensor.nbytes) for tensor in built.network.state_dict().values())
