"""Turn images into the student's input: cropped and resized on the CPU as bytes, normalised on the device."""

import functools
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.compute.device import rows_at_a_time
from stages.components.images.batch_resize import MILD_SHRINK
from stages.components.images.crop_boxes import draw_box
from stages.components.images.lazy_image import LazyImage, Pixels, to_image

_MOST_SHRINK = 4  # larger shrinks are not left to the device


class TrainCrop:
    """The training transform: a random crop, the same for the same seed on any machine, or the centre crop.

    Boxes are drawn as by torchvision's RandomResizedCrop. Speed comes before the last grey levels: an image of twice
    the size or more is shrunk while it is decoded, and the box rounded to whole pixels of that; a remaining shrink of
    less than 1.6 is done by linear interpolation, which is nearer to an antialiased resize there than cubic
    interpolation without antialiasing. Compared with Pillow's antialiased bicubic from the same box, fully decoded,
    photographs of 500 x 375 pixels differ by 0.3 grey levels in the mean and 7 at the 99th percentile at 224 pixels,
    by 2.3 and 20 at 160, where they are shrunk while decoding, and by 1.2 and 10 from packs of 256 to 224.

    Args:
        image_size: Side of the output, in pixels.
        min_scale: Least share of the image's area that a crop keeps, with sides from 3:4 to 4:3; 0 takes the centre,
            exactly as evaluation does.
        interpolation: Interpolation of the resize, "bicubic" or "bilinear".
        middle: Preprocessing of evaluation, which cuts the centre; None resizes the short side to the output's.
    """

    def __init__(
        self,
        *,
        image_size: int,
        min_scale: float,
        interpolation: str = "bicubic",
        middle: Preprocessing | None = None,
    ) -> None:
        self._size = image_size
        self._min_scale = min_scale
        self._interpolation = v2.InterpolationMode(interpolation)
        self._middle = EvalTransform(middle or Preprocessing(image_size=image_size, interpolation=interpolation))
        self.image_bytes = self._middle.image_bytes

    def unsized_bytes(self, whole: float) -> float:
        """Estimate the mean bytes of a crop before it is resized, for images of ``whole`` bytes."""
        if not self._min_scale:
            return self.image_bytes
        return min(whole * (1 + self._min_scale) / 2, self.image_bytes * _MOST_SHRINK**2)

    def __call__(self, image: LazyImage, *, seed: int) -> Tensor:
        """Crop and resize an image.

        Raises:
            ImageRejected: the image is damaged.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        if not self._min_scale:
            return self._middle(image)
        return self._resize(self._cut(image, seed))

    def unsized(self, image: LazyImage, *, seed: int) -> Pixels:
        """Crop an image and leave the resize to `resize_batch`, which equals calling this object, up to rounding.

        A box with a side of more than four times the output's is resized at once, to save memory on its way; so is the
        centre crop, which must equal evaluation's exactly.

        Raises:
            ImageRejected: the image is damaged.

        Shapes:
            returns: (height, width, 3), uint8; perhaps a view of the image that must not be written to.
        """
        if not self._min_scale:
            return self._middle(image).permute(1, 2, 0).numpy()
        cut = self._cut(image, seed)
        return cut if max(cut.shape) <= _MOST_SHRINK * self._size else self._resize(cut).permute(1, 2, 0).numpy()

    def _cut(self, image: LazyImage, seed: int) -> Pixels:
        box = draw_box(image.size, min_scale=self._min_scale, seed=seed)
        pixels = image.pixels(scale=min(1.0, self._size / min(box.height, box.width)))
        return box.cut(pixels, image.size)

    def _resize(self, pixels: Pixels) -> Tensor:
        height, width, _ = pixels.shape
        if self._size <= max(height, width) < MILD_SHRINK * self._size:
            cv2 = _cv2()
            resized = cv2.resize(pixels, (self._size, self._size), interpolation=cv2.INTER_LINEAR)
            return torch.from_numpy(resized).permute(2, 0, 1)
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        side = [self._size, self._size]
        resized_whole: Tensor = v2.functional.resize(whole, side, interpolation=self._interpolation, antialias=True)
        return resized_whole


class EvalTransform:
    """The evaluation transform: short side (or both) resized by Pillow with antialiasing, then the centre crop.

    Args:
        preprocessing: Preprocessing of the student.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        interpolation = v2.InterpolationMode(preprocessing.interpolation)
        size = preprocessing.image_size
        self.image_bytes = 3 * size**2
        side = preprocessing.resize_size or size
        sides = [side, side] if preprocessing.resize == "squash" else side
        resize = v2.Resize(sides, interpolation=interpolation, antialias=True)
        self._crop = v2.Compose([resize, v2.CenterCrop(size)])

    def __call__(self, image: LazyImage) -> Tensor:
        """Resize and crop an image.

        Raises:
            ImageRejected: the image is damaged.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        cropped = self._crop(to_image(image))
        return torch.from_numpy(np.array(cropped, copy=True)).permute(2, 0, 1)


class Normalize:
    """The normalisation of a batch on the device: bytes to the student's input.

    Args:
        preprocessing: Preprocessing of the student.
        device: Device of the student.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._device = device
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self._scale = (1 / (255 * std)).view(1, 3, 1, 1).to(device)
        self._shift = (-mean / std).view(1, 3, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Scale to 0..1, subtract the mean, divide by the standard deviation.

        Shapes:
            images: (batch, 3, size, size), uint8, on any device.
            returns: the same, channels last, on the device, float32, or under autocast its dtype: computed in float32,
                and rounded as a convolution rounds its input.
        """
        images = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        kind = self._device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        numbers = torch.empty_like(images, dtype=dtype)
        if kind != "cpu":
            return torch.addcmul(self._shift, images, self._scale, out=numbers)  # within one kernel
        size = rows_at_a_time(images)
        for part, into in zip(torch.split(images, size), torch.split(numbers, size), strict=True):
            into.copy_(torch.addcmul(self._shift, part.float(), self._scale))
        return numbers


@functools.cache
def _cv2() -> ModuleType:
    import cv2

    cv2.setNumThreads(0)  # a process that reads images has one core
    return cv2
