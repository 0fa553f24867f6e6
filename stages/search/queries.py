"""Embed queries: captions by the teacher, images by the student, each loaded when it is first needed."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.images.embedded_images import EmbedConfig
from data_schemas.images.student_checkpoint import StudentConfig
from pipeline.log import log
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.embeddings.searchable import EMBED
from stages.components.student.checkpoints import StudentWeights, find_checkpoint, find_weights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.prompts import find_query_prompt
from stages.components.teacher.recorded import find_recorded_teacher

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage
    from stages.components.student.embedder import ImageEmbedder
    from stages.components.teacher.teacher import Teacher

Vectors = NDArray[np.float32]


class Queries:
    """The models that embed queries into the space of one artifact's rows.

    Args:
        artifact: Artifact of embed or encode-teacher.
        student: Student as a user named it; None takes the one that embedded the images, or the newest one that
            learned from the captions' teacher.
        teacher: Teacher as a user named it; None takes it from where encode-teacher found it.
        trust_code: Whether Python code that comes with the teacher may run.
        query_prompt_name: Prompt of the teacher that is put before words; None puts what the captions had.
        device: Device of both models.
        context: Holds the store.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        student: str | None,
        teacher: str | None,
        trust_code: bool,
        query_prompt_name: str | None,
        device: str,
        context: Context,
    ) -> None:
        self._artifact, self._context, self._device = artifact, context, device
        self._student_name, self._teacher_name, self._trust_code = student, teacher, trust_code
        self._query_prompt_name = query_prompt_name
        self._is_images = artifact.record.stage == EMBED
        self._student: StudentWeights | None = None
        self._embedder: ImageEmbedder | None = None
        self._teacher: Teacher | None = None
        self.one_at_a_time = threading.RLock()

    @property
    def student(self) -> StudentWeights:
        """The student that embeds images.

        Raises:
            ProtoRKDError: there is none for this artifact, or another was named.
        """
        if self._student is None:
            self._student = self._of_images() if self._is_images else self._for_captions()
        return self._student

    @property
    def teacher_identity(self) -> str:
        """Identity of the teacher whose space the rows are in."""
        if self._is_images:
            return self.student.config.teacher.identity
        return self._artifact.record.inputs["teacher"].digest

    @property
    def dim(self) -> int:
        """Width of a query."""
        return self.student.config.embedding_dim if self._is_images else self._dim()

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Embed captions.

        Raises:
            ProtoRKDError: the teacher cannot be found, is another one, or knows no word of one of them.

        Shapes:
            returns: (texts, dim), of unit length.
        """
        with self.one_at_a_time:
            vectors = self.load_teacher(texts).encode(texts)
        return _unit(vectors, [f"--text {text!r}" for text in texts], remedy="Use words that the teacher knows.")

    def image(self, image: "LazyImage", *, name: str) -> Vectors:
        """Embed an image.

        Args:
            image: Image, upright, of any size.
            name: Name of the image, for the message.

        Raises:
            ProtoRKDError: there is no student, or its embedding of the image is zero or not finite.
            ImageRejected: it is damaged.

        Shapes:
            returns: (1, dim), of unit length.
        """
        from stages.components.images.transforms import EvalTransform

        with self.one_at_a_time:
            embedder = self.load_student()
            pixels = EvalTransform(self.student.config.preprocessing)(image)
            _, vectors = embedder(pixels[None])
        return _unit(vectors.cpu().numpy(), [name], remedy="Take another image.")

    def load_teacher(self, texts: Sequence[str]) -> "Teacher":
        """Load the teacher, unless it is loaded; ``texts`` are examples of what it will embed.

        Raises:
            ProtoRKDError: as `texts`.
        """
        from stages.components.compute.device import choose_devices, describe_work
        from stages.components.embeddings.caption_embeddings import load_teacher

        if self._teacher is None:
            if self._is_images:
                config, what = self.student.config, "the student was distilled from"
                _check_width(config)
                recipe = EncodingOptions.of(config.teacher.recipe)
            else:
                recipe, what = EncodingOptions.of(self._artifact.record.params), "the captions were embedded by"
            teacher = find_recorded_teacher(
                self._teacher_name,
                self.teacher_identity,
                what=what,
                trust_code=self._trust_code,
                context=self._context,
            )
            if query_prompt := find_query_prompt(self._query_prompt_name, teacher):
                recipe = replace(recipe, prompt=query_prompt.value)
            devices = choose_devices(self._device)
            log.info("search: the teacher on %s", describe_work(*devices, precision=recipe.teacher_precision))
            self._teacher = load_teacher(teacher, recipe, pa.array(texts, pa.large_string()), devices=devices)
        return self._teacher

    def load_student(self) -> "ImageEmbedder":
        """Load the student, unless it is loaded.

        Raises:
            ProtoRKDError: as `student`.
        """
        from stages.components.compute.device import choose_device, describe_work
        from stages.components.compute.precision import choose_precision
        from stages.components.student.embedder import ImageEmbedder

        if self._embedder is None:
            device = choose_device(self._device)
            precision = EmbedConfig.read(self._artifact.path).precision if self._is_images else "auto"
            if precision == "fp16" and device.type != "cuda":
                precision = "auto"
            precision = choose_precision(precision, device)
            log.info("search: the student on %s", describe_work(device, precision=precision))
            self._embedder = ImageEmbedder.load(
                self.student, device=device, precision=precision, store=self._context.store
            )
        return self._embedder

    def _of_images(self) -> StudentWeights:
        entry = self._artifact.record.inputs["student"]
        if self._student_name is None:
            return find_weights(entry.digest, location=Path(entry.location), store=self._context.store)
        student = find_checkpoint(self._student_name, store=self._context.store)
        if student.identity != entry.digest:
            raise ProtoRKDError(
                f"--student must be the one that embedded the images ({entry.digest[:12]}); got {self._student_name} "
                f"({student.identity[:12]}). Leave it out, or run embed with this one."
            )
        return student

    def _for_captions(self) -> StudentWeights:
        if self._student_name is not None:
            student = find_checkpoint(self._student_name, store=self._context.store)
            if student.config.teacher.identity != self.teacher_identity:
                raise ProtoRKDError(
                    f"--student must have learned from the teacher that embedded the captions "
                    f"({self.teacher_identity[:12]}); got {self._student_name}, whose teacher is "
                    f"{student.config.teacher.identity[:12]}. Name another, or encode the captions with its teacher."
                )
        else:
            student = self._newest()
        _check_width(student.config)
        if student.config.teacher.dim != (found := self._dim()):
            raise ProtoRKDError(
                f"--student must be as wide as the captions, {found}; got {student.config.teacher.dim}. Encode the "
                "captions with the --truncate-dim that the student was distilled with."
            )
        return student

    def _newest(self) -> StudentWeights:
        store = self._context.store
        for artifact in map(store.fetch, reversed(store.artifacts("distill"))):
            if StudentConfig.read(artifact.path).teacher.identity == self.teacher_identity:
                log.info("using %s, the newest student of the captions' teacher", artifact.name)
                return find_checkpoint(str(artifact.path), store=store)
        raise ProtoRKDError(
            f"{store} must hold a student of the teacher that embedded the captions "
            f"({self.teacher_identity[:12]}) to search them by image; it has none. Run distill, or pass --student."
        )

    def _dim(self) -> int:
        from data_schemas.embedding_array import EmbeddingArray

        return EmbeddingArray.open(self._artifact.path).dim


def _check_width(config: StudentConfig) -> None:
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"Search between captions and images must have a student as wide as its teacher; got "
            f"{config.embedding_dim} and {config.teacher.dim}. Distill without --projection-dim."
        )


def _unit(vectors: Vectors, names: Sequence[str], *, remedy: str) -> Vectors:
    """Scale vectors to unit length; refuse those that are zero or not finite."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, length in zip(names, lengths[:, 0], strict=True):
        if not np.isfinite(length) or not length:
            what = "a zero vector" if length == 0 else "numbers that are not finite"
            raise ProtoRKDError(f"{name} must have an embedding; it comes out as {what}. {remedy}")
    unit: Vectors = vectors / lengths
    return unit
