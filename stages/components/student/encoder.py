"""Embed images by a trained student in Python: files, Pillow's images or arrays."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import CONFIG_NAME, WEIGHTS_NAME, StudentConfig, checkpoint_path
from pipeline.store.store import Artifact, Store
from stages.components.compute.device import choose_device, send
from stages.components.images.decoding import ImageRejected, upright_rgb
from stages.components.images.lazy_image import DecodedImage, LazyImage, open_lazily
from stages.components.images.transforms import EvalTransform
from stages.components.student.embedder import ImageEmbedder
from stages.components.student.student import Student
from stages.components.student.weights import load_student

AnyImage = str | os.PathLike[str] | PIL.Image.Image | NDArray[np.uint8]


class StudentEncoder:
    """A trained student that embeds images as evaluation does, in fp32.

    Args:
        student: Student in eval mode, on the device.
        config: Configuration in the student's folder.
        device: Device of the student.
    """

    def __init__(self, student: Student, config: StudentConfig, *, device: torch.device) -> None:
        self.config = config
        self._device = device
        self._transform = EvalTransform(config.preprocessing)
        self._embedder = ImageEmbedder(student, config.preprocessing, device=device, precision="fp32")

    def __repr__(self) -> str:
        return f"StudentEncoder({self.config.backbone}, {self.config.embedding_dim} dimensions, {self._device})"

    def encode(
        self, images: AnyImage | Iterable[AnyImage], *, batch_size: int = 64, normalize: bool = False
    ) -> NDArray[np.float32]:
        """Embed any number of images, of which one batch is held at a time.

        Args:
            images: Paths, Pillow's images, or arrays of (height, width, 3) or (height, width), uint8; or one of them.
            batch_size: Number of images in a batch.
            normalize: Whether to scale each embedding to unit length, as search by cosine needs it.

        Raises:
            ProtoRKDError: an image is missing, damaged, or none of these.

        Shapes:
            returns: (images, embedding_dim), float32.
        """
        if batch_size < 1:
            raise ProtoRKDError(f"batch_size must be above 0; got {batch_size}.")
        several: Any = [images] if _is_one(images) else images
        embedded = [self._embed(batch, normalize=normalize) for batch in _batches(enumerate(several), batch_size)]
        empty = np.empty((0, self.config.embedding_dim), np.float32)
        return np.concatenate(embedded) if embedded else empty

    def _embed(self, batch: Sequence[tuple[int, Any]], *, normalize: bool) -> NDArray[np.float32]:
        pixels = torch.stack([self._pixels(number, image) for number, image in batch])
        _, embeddings = self._embedder(send(pixels, self._device))
        embeddings = F.normalize(embeddings, dim=1) if normalize else embeddings
        numbers: NDArray[np.float32] = embeddings.cpu().numpy()
        return numbers

    def _pixels(self, number: int, image: Any) -> Tensor:
        try:
            return self._transform(_open(image))
        except ImageRejected as error:
            name = os.fspath(image) if isinstance(image, str | os.PathLike) else type(image).__name__
            raise ProtoRKDError(f"images must be images; number {number} ({name}) is not: {error.reason}.") from error


def open_student(artifact: Artifact, *, store: Store, epoch: int | None, device: str) -> StudentEncoder:
    """Load a student from an artifact of distill, and check its digests.

    Args:
        artifact: Artifact of distill.
        store: Store that a frozen backbone is looked for in first.
        epoch: Epoch after which the weights were kept; None takes those at the end.
        device: Device of the student, as ``--device`` takes it.

    Raises:
        ProtoRKDError: no weights were kept after that epoch, a file is damaged, the backbone is gone, or the device is
            not there.
    """
    path = WEIGHTS_NAME if epoch is None else checkpoint_path(epoch)
    if path not in [file.path for file in artifact.record.files]:
        raise ProtoRKDError(f"epoch must be one after which weights were kept; {artifact.path} has no {path}.")
    artifact.require_whole((CONFIG_NAME, path), read=True)
    config, where = StudentConfig.read(artifact.path), choose_device(device)
    student = load_student(config, artifact.path / path, device=where, store=store)
    return StudentEncoder(student, config, device=where)


def _is_one(images: Any) -> bool:
    is_array = isinstance(images, np.ndarray) and images.ndim < 4
    return is_array or isinstance(images, str | os.PathLike | PIL.Image.Image)


def _batches(images: Iterable[tuple[int, Any]], size: int) -> Iterator[list[tuple[int, Any]]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch


def _open(image: Any) -> LazyImage:
    """Open any kind of image.

    Raises:
        ImageRejected: it is none.
    """
    if isinstance(image, str | os.PathLike):
        return open_lazily(os.fspath(image))
    if isinstance(image, PIL.Image.Image):
        return DecodedImage(np.asarray(upright_rgb(image)))
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise ImageRejected(
            f"an array must be (height, width, 3) or (height, width), uint8; got {array.shape} {array.dtype}"
        )
    return DecodedImage(array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2))
