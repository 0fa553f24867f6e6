"""Embed batches of images by a trained student."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from data_schemas.images.student_checkpoint import Preprocessing
from pipeline.store.store import Store
from stages.components.compute.precision import autocast, full_float32
from stages.components.images.transforms import Normalize
from stages.components.loading.batch import Batch
from stages.components.loading.prefetch import results_on_cpu
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.student import Student
from stages.components.student.weights import load_frozen_backbone, load_student

T = TypeVar("T")


class ImageEmbedder:
    """A loaded student that embeds images: the backbone in a given precision, the head in fp32, without TF32.

    Args:
        student: Student in eval mode, on the device.
        preprocessing: How the student's images are prepared.
        device: Device of the student.
        precision: Precision of the backbone: fp32, bf16 or fp16.
    """

    def __init__(self, student: Student, preprocessing: Preprocessing, *, device: torch.device, precision: str) -> None:
        self.model = student
        self.preprocessing = preprocessing
        self._device = device
        self._normalize = Normalize(preprocessing, device)
        self._in_precision = autocast(precision, device)

    @classmethod
    def load(cls, weights: StudentWeights, *, device: torch.device, precision: str, store: Store) -> Self:
        """Load the student whose weights were identified.

        Args:
            weights: Weights of the student.
            device: Device of the student.
            precision: Precision of the backbone: fp32, bf16 or fp16.
            store: Store that a frozen backbone is looked for in first.

        Raises:
            ProtoRKDError: the weights are gone or do not fit the student, or its backbone is gone.
        """
        config = weights.config
        student = load_identified(weights, lambda path: load_student(config, path, device=device, store=store))
        return cls(student, config.preprocessing, device=device, precision=precision)

    @classmethod
    def load_backbone(cls, weights: StudentWeights, *, device: torch.device, precision: str, store: Store) -> Self:
        """Load the frozen backbone of a student alone: its features are the embeddings.

        Raises:
            ProtoRKDError: the backbone is gone.
        """
        config = weights.config
        backbone = load_frozen_backbone(config, weights.weights, device=device, store=store)
        return cls(backbone, config.preprocessing, device=device, precision=precision)

    @full_float32()
    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embed a batch: return the features before the projection head, and the embeddings after it.

        Shapes:
            images: (batch, 3, size, size), uint8, of one image or more.
            returns: (batch, feature_dim) and (batch, dim), float32, on the device.
        """
        with self._in_precision():
            features = self.model.features(self._normalize(images))
        features = features.float()
        return features, self.model.head(features)

    def over(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Embed batches one after the other, including those without readable images.

        Args:
            batches: Batches, with pinned memory if the student is on a GPU.

        Shapes:
            yields: the batch, (read, feature_dim) and (read, dim), float32, on the CPU.
        """
        for batch, (features, embeddings) in results_on_cpu(batches, self._embed, self._device):
            yield batch, features, embeddings

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images):
            return self(images)
        return torch.empty(0, self.model.feature_dim), torch.empty(0, self.model.embedding_dim)


def load_identified(student: StudentWeights, load: Callable[[Path], T]) -> T:
    """Load the weights that were identified, even if their draft has become an artifact meanwhile.

    Args:
        student: Weights to load.
        load: Loads them from a file.

    Raises:
        ProtoRKDError: they are gone, or as ``load``.
    """
    for weights in student.places:
        try:
            if hash_file(weights) == student.sha256:
                return load(weights)
        except OSError:
            continue
        except ProtoRKDError:
            if weights.exists():
                raise
    raise ProtoRKDError(
        f"{student.weights} must hold the weights that were found there; it is gone, or holds others. Run the same "
        "command again, and distill again with the same options and --force if that does not help."
    )
