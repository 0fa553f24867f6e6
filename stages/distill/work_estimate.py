"""Estimate the work of a training: its examples and steps, and the bytes of the weights that it keeps."""

import math
from typing import TYPE_CHECKING

import torch

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.pair_index import read_pairs
from pipeline.stage import Work
from stages.components.student.student import build_student

if TYPE_CHECKING:
    from stages.distill.options import DistillParams, DistillSources


def training_work(params: "DistillParams", sources: "DistillSources") -> Work:
    """Count as the stage does, except for what only embeddings tell, such as captions that the teacher does not know.

    Raises:
        ProtoRKDError: the student is unknown, or does not take images of that size.
    """
    embeddings = sources.embeddings.value
    pairs = read_pairs(embeddings.path)
    readable = pairs.num_rows - len(sources.images.value.missing)
    num_images = len(pairs["image"].unique())
    examples = readable if params.captions_per_image == "each" else min(num_images, readable)
    examples = max(2, round(examples * (1 - params.validation_fraction)))
    steps = params.epochs * math.ceil((params.episode_size or examples) / params.batch_size)
    kept = math.ceil(params.epochs / params.save_every_epochs) + 1  # the last stands there twice
    return Work(
        counts={"pairs": pairs.num_rows, "images": num_images, "examples": examples, "steps": steps},
        paced_by="steps",
        like=("student", "image_size", "batch_size", "loss", "freeze_backbone"),
        size=kept * _weight_bytes(params, EmbeddingArray.open(embeddings.path).dim),
    )


def _weight_bytes(params: "DistillParams", teacher_dim: int) -> int:
    with torch.device("meta"):  # shapes without numbers
        student = build_student(
            params.student,
            embedding_dim=params.projection_dim or teacher_dim,
            image_size=params.image_size,
            projection_layers=params.projection_layers,
            pooling=params.pooling,
        )
    return sum(tensor.nbytes for tensor in student.state_dict().values())
