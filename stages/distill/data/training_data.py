"""The data that a student learns from: images or their features, the teacher's targets, and the order of both."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.compute.distributed import Ranks
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.batch_resize import resize_batch
from stages.components.images.packed_image_set import are_raw
from stages.components.images.transforms import Normalize, TrainCrop
from stages.components.loading.batch import Batch
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.device_pipeline import DevicePreprocess, prepares_batches
from stages.distill.data.example_images import ExampleImages
from stages.distill.data.examples import Examples
from stages.distill.data.feature_noise import FeatureMixup
from stages.distill.data.target_smoothing import TargetSmoothing
from stages.distill.data.targets import Targets
from stages.distill.data.training_pairs import TrainingPairs
from stages.distill.objectives import WeightedObjectives

if TYPE_CHECKING:
    from stages.distill.options import DistillParams

_OF_CROPS = ("bicubic", "bilinear")  # of batches of tensors; what is left in the middle is resized as in evaluation


Prepare = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Turns the images of a batch, with its seeds and sizes, into the student's input, on the device."""


class ExampleSource(Protocol):
    """What gives the images of examples, or their features, in batches."""

    def batches(self, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterable[Batch]:
        """Read the requested micro-batches, in order."""

    def path_of(self, example: int) -> str:
        """Look up the path of an example's image, as its manifest writes it."""


@dataclass(frozen=True)
class TrainingData:
    """The data that a student learns from; constant while it trains.

    Args:
        source: Images, or features, by epoch and example.
        prepare: Turns what the source gives into the student's input.
        examples: Captions and labels of each example.
        targets: Embeddings of the teacher by caption row.
        smooth: Smooths targets before objectives see them; None leaves them as they are.
        requests: Micro-batches of this rank, from the first step to the last.
        manifest_rows: Manifest row of each example, for messages.
        mixup: Mixes targets as the source mixes features; None leaves them.
        image_numbers: Number of each example's image, for objectives that read it; None where none does.
        gives_features: Whether objectives read what the source gives.

    Shapes:
        manifest_rows, image_numbers: (examples,), int64.
    """

    source: ExampleSource
    prepare: Prepare
    examples: Examples
    targets: Targets
    smooth: TargetSmoothing | None
    requests: BatchRequests
    manifest_rows: Tensor
    mixup: FeatureMixup | None = None
    image_numbers: Tensor | None = None
    gives_features: bool = False

    def beside(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Look up what objectives take beside embeddings and targets, by its name there: (batch, ...) each."""
        found = {
            "rows": self.examples.caption_rows(batch.rows, epoch),
            "labels": self.examples.labels(batch.rows),
        }
        if self.image_numbers is not None:
            found["images"] = self.image_numbers[batch.rows]
        if self.gives_features:
            found["features"] = batch.images
        return found

    def teacher(self, examples: Tensor, epoch: int) -> Tensor:
        """Look up the embeddings that the student should give the images of examples in an epoch.

        Shapes:
            examples: (batch,), int64, on the CPU.
            returns: (batch, teacher_dim), float, on the training device.
        """
        teacher = self.examples.targets(examples, epoch, self.targets.gather)
        if self.smooth is not None:
            teacher = self.smooth(teacher)
        return teacher if self.mixup is None else self.mixup(teacher, examples, epoch)


def make_data(
    params: "DistillParams",
    pairs: TrainingPairs,
    *,
    targets: Targets,
    objectives: WeightedObjectives,
    preprocessing: Preprocessing,
    device: torch.device,
    ranks: Ranks,
) -> TrainingData:
    """Put together the images, the targets and the order of a training.

    Raises:
        ProtoRKDError: batches or episodes are too small for the ranks and micro-batches, or larger than the whole.
    """
    dataset, prepare = _images(params, pairs, preprocessing=preprocessing, device=device)
    return join_data(params, pairs, dataset, prepare, targets=targets, objectives=objectives, ranks=ranks)


def join_data(
    params: "DistillParams",
    pairs: TrainingPairs,
    source: ExampleSource,
    prepare: Prepare,
    *,
    targets: Targets,
    objectives: WeightedObjectives,
    ranks: Ranks,
    mixup: FeatureMixup | None = None,
) -> TrainingData:
    """Put the targets and the order of a training beside a source of images or features.

    Raises:
        ProtoRKDError: as `make_data`.
    """
    return TrainingData(
        source=source,
        prepare=prepare,
        examples=pairs.examples,
        targets=targets,
        smooth=_smoothing(params, targets),
        requests=_requests(params, pairs, ranks),
        manifest_rows=torch.from_numpy(pairs.manifest_rows[pairs.examples.pairs]),
        mixup=mixup,
        image_numbers=torch.from_numpy(pairs.image_numbers()) if objectives.takes("images") else None,
        gives_features=objectives.takes("features"),
    )


def _images(
    params: "DistillParams", pairs: TrainingPairs, *, preprocessing: Preprocessing, device: torch.device
) -> tuple[ExampleImages, DevicePreprocess]:
    """Divide the work on images between the processes that read and the device."""
    augmentation = AUGMENTATIONS[params.augmentation]
    size = params.image_size
    interpolation = preprocessing.interpolation if preprocessing.interpolation in _OF_CROPS else "bicubic"
    crop = TrainCrop(
        image_size=size,
        min_scale=params.crop_min_scale or augmentation.crop_min_scale,
        interpolation=interpolation,
        middle=preprocessing,
    )
    on_device = prepares_batches(device)
    resize = on_device and are_raw(pairs.images)  # images that have to be decoded are shrunk meanwhile
    here, there = (None, Augment(augmentation)) if on_device else (Augment(augmentation), None)
    return (
        ExampleImages(pairs.images, pairs.examples.pairs, crop, here, seed=params.seed, resized=not resize),
        DevicePreprocess(
            Normalize(preprocessing, device),
            there,
            partial(resize_batch, size=size, interpolation=interpolation) if resize else None,
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


def _requests(params: "DistillParams", pairs: TrainingPairs, ranks: Ranks) -> BatchRequests:
    return BatchRequests(
        np.arange(pairs.examples.num),
        batch_size=params.batch_size,
        epochs=params.epochs,
        seed=params.seed,
        episode_size=params.episode_size,
        rank=ranks.rank,
        num_ranks=ranks.size,
        accumulate=params.accumulate_steps,
        order=pairs.order,
    )
