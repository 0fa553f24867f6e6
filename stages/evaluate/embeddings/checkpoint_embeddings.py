"""Embeds what tasks need: images with the student, captions with its teacher, each through its artifact."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from data_schemas.calibration import Calibration
from pipeline.stage import Context, Input
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.compute.device import choose_device
from stages.components.images.image_set import ImageSet
from stages.components.inputs.vectors import VectorSource
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.head_on_features import embed_features
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.evaluate.embeddings.cached_embeddings import (
    FeatureRuntime,
    ImageEmbeddings,
    embed_captions,
    embed_images,
    identify_pass,
)


class CheckpointEmbeddings:
    """Embeddings by one checkpoint and its teacher; those of one task stay in memory for the next.

    Args:
        student: Student that embeds the images.
        teacher: Teacher that embeds the captions, or vectors of them; None where no task asks for any.
        image_vectors: Features of images by another tool; None where the student embeds them.
        known: What `embed_images` gave for images that are embedded already, by the digest of their set.
        precision: Precision of the student's pass over images, as `embed_images` takes it.
        runtime: Device, workers and batch sizes.
        context: Store of the embeddings. Images are never embedded by force: an evaluation has embedded them before its
            tasks.
    """

    def __init__(
        self,
        student: StudentWeights,
        teacher: Input[TeacherSource | VectorSource] | None,
        *,
        image_vectors: Input[VectorSource] | None = None,
        known: Mapping[str, ImageEmbeddings],
        precision: str,
        runtime: FeatureRuntime,
        context: Context,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._pass = identify_pass(student, image_vectors)
        self._runtime = runtime
        self._context = context
        self._precision = precision
        self._known = dict(known)
        self._images: dict[str, ImageEmbeddings] = {}
        self._captions: dict[tuple[tuple[str, ...], str | None], tuple[Tensor, str]] = {}
        self._used: set[str] = set()

    @property
    def fit_device(self) -> torch.device:
        """Device for work on embeddings (linear layers, neighbours): the student's, or the CPU if it lacks float64."""
        device = choose_device(self._runtime.device)
        return torch.device("cpu") if device.type == "mps" else device

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of the passes over images so far: one, unless the store comes from elsewhere."""
        return tuple(sorted({embedded.precision for embedded in (self._known | self._images).values()}))

    def images(self, images: Input[ImageSet]) -> ImageEmbeddings:
        """Embed the readable images, one row each; the same images are embedded once for all tasks."""
        if images.digest not in self._images:
            self._images[images.digest] = self._embed(images)
        embedded = self._images[images.digest]
        self._used.add(embedded.digest)
        return embedded

    def captions(self, captions: tuple[str, ...], *, prompt: str | None = None) -> Tensor:
        """Embed captions, one row each: (captions, dim), float32.

        Args:
            captions: Captions to embed.
            prompt: Text put before each; None puts what was put before those that the student was distilled from.
        """
        if (captions, prompt) not in self._captions:
            assert self._teacher is not None
            recipe = EncodingOptions.of(self._student.config.teacher.recipe)
            self._captions[captions, prompt] = embed_captions(
                captions,
                teacher=self._teacher,
                recipe=recipe if prompt is None else dataclasses.replace(recipe, prompt=prompt),
                runtime=self._runtime,
                context=self._context,
            )
        embeddings, digest = self._captions[captions, prompt]
        self._used.add(digest)
        return embeddings

    def calibration(self, kind: str) -> Calibration:
        """Find or make a calibration of the student, ``query-bank`` or ``mixed``.

        Raises:
            ProtoRKDError: what it is computed from is gone.
        """
        runtime = CalibrationRuntime(self._runtime.device, self._runtime.workers)
        source = identify_calibration(self._student, kind).value
        calibration, digest = make_calibration(source, runtime, self._context)
        self._used.add(digest)
        return calibration

    def _embed(self, images: Input[ImageSet]) -> ImageEmbeddings:
        embedded = self._known.get(images.digest)
        if embedded is None:
            context = dataclasses.replace(self._context, force=False)
            embedded = embed_images(
                self._pass, images, precision=self._precision, runtime=self._runtime, context=context
            )
        if not self._student.config.is_head_alone:
            return embedded
        embeddings = embed_features(self._student, embedded.features, device=choose_device(self._runtime.device))
        return dataclasses.replace(embedded, embeddings=embeddings)

    def take_used(self) -> tuple[str, ...]:
        """Return the digests of the artifacts that embeddings came from since the last call."""
        used, self._used = tuple(sorted(self._used)), set()
        return used
