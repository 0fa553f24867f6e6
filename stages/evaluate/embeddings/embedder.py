"""Embeds what tasks look at: images with the student, captions with its teacher, each through its artifact."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.stage import Context, Input
from stages.components.compute.device import choose_device
from stages.components.images.image_set import ImageSet
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.evaluate.embeddings.cached_embeddings import FeatureRuntime, ImageEmbeddings, embed_captions, embed_images


class Embedder:
    """Embeddings by one checkpoint and its teacher; what one task has asked for is at hand for the next.

    Args:
        student: of the images.
        teacher: of the captions; None where no task asks for any.
        known: images that are embedded already, by the digest of their set.
        precision: of the student's pass over images, as `embed_images` takes it.
        runtime: where and how many at a time.
        context: the store. Images are never embedded by force: an evaluation has embedded them before its tasks.
    """

    def __init__(
        self,
        student: StudentWeights,
        teacher: Input[TeacherSource] | None,
        *,
        known: Mapping[str, ImageEmbeddings],
        precision: str,
        runtime: FeatureRuntime,
        context: Context,
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._runtime = runtime
        self._context = context
        self._precision = precision
        self._images = dict(known)
        self._captions: dict[tuple[str, ...], tuple[Tensor, str]] = {}
        self._used: set[str] = set()

    @property
    def fit_device(self) -> torch.device:
        """Where embeddings are worked on (linear layers, neighbours): the student's device, if it knows float64."""
        device = choose_device(self._runtime.device)
        return torch.device("cpu") if device.type == "mps" else device

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the passes over images that are at hand ran in: one, unless the store has come from elsewhere."""
        return tuple(sorted({found.precision for found in self._images.values()}))

    def images(self, images: Input[ImageSet]) -> ImageEmbeddings:
        """One row a readable image; the same images are embedded once, whatever task asks for them."""
        if images.digest not in self._images:
            context = dataclasses.replace(self._context, force=False)
            self._images[images.digest] = embed_images(
                self._student, images, precision=self._precision, runtime=self._runtime, context=context
            )
        found = self._images[images.digest]
        self._used.add(found.digest)
        return found

    def captions(self, captions: tuple[str, ...]) -> Tensor:
        """One row a caption: (captions, dim), float32."""
        if captions not in self._captions:
            assert self._teacher is not None
            self._captions[captions] = embed_captions(
                captions,
                teacher=self._teacher,
                recipe=EncodingOptions.of(self._student.config.teacher.recipe),
                runtime=self._runtime,
                context=self._context,
            )
        embeddings, digest = self._captions[captions]
        self._used.add(digest)
        return embeddings

    def take_used(self) -> tuple[str, ...]:
        """Digests of the artifacts that embeddings came from since this was last asked."""
        used, self._used = tuple(sorted(self._used)), set()
        return used
