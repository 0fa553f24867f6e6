"""From a picture to the student's input: cropped and resized on the CPU as bytes, normalised on the device."""

import functools
import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_schemas.student_checkpoint import Preprocessing
from stages.device import rows_at_a_time
from stages.pictures import Picture, Pixels, to_image

_RATIO = (3 / 4, 4 / 3)
_NUM_TRIES = 10
_MILD_SHRINK = 1.6


class TrainCrop:
    """A random crop, the same for the same seed wherever it runs, or the middle.

    Boxes are drawn as by torchvision's RandomResizedCrop. Speed comes before the last grey levels: a picture of twice
    the size or more is shrunk while it is decoded, where the box falls on whole pixels; and a shrink of less than 1.6
    that is left is done by linear interpolation, which is nearer to an antialiased resize there than cubic
    interpolation without antialiasing. From the same box, fully decoded and resized by Pillow's antialiased bicubic,
    that differs on photographs of 500 x 375 pixels by 0.3 grey levels in the mean and 7 at the 99th percentile at 224
    pixels, by 2.3 and 20 at 160, where they are shrunk while decoded, and by 1.2 and 10 from packs of 256 to 224.

    Args:
        image_size: side of the output, in pixels.
        min_scale: least share of the picture's area that a crop keeps, its sides 3:4 to 4:3; 0 takes the middle,
            exactly as evaluation does.
        interpolation: of the resize.
    """

    def __init__(self, *, image_size: int, min_scale: float, interpolation: str = "bicubic") -> None:
        self._size = image_size
        self._min_scale = min_scale
        self._interpolation = v2.InterpolationMode(interpolation)
        self._middle = EvalTransform(Preprocessing(image_size=image_size, interpolation=interpolation))

    def __call__(self, picture: Picture, *, seed: int) -> Tensor:
        """Crop and resize.

        Raises:
            ImageRejected: the picture is damaged.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        if not self._min_scale:
            return self._middle(picture)
        box = draw_box(picture.size, min_scale=self._min_scale, seed=seed)
        pixels = picture.pixels(scale=min(1.0, self._size / min(box.height, box.width)))
        return self._resize(box.cut(pixels, picture.size))

    def _resize(self, pixels: Pixels) -> Tensor:
        height, width, _ = pixels.shape
        if self._size <= max(height, width) < _MILD_SHRINK * self._size:
            cv2 = _cv2()
            resized = cv2.resize(pixels, (self._size, self._size), interpolation=cv2.INTER_LINEAR)
            return torch.from_numpy(resized).permute(2, 0, 1)
        whole = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        side = [self._size, self._size]
        resized_whole: Tensor = v2.functional.resize(whole, side, interpolation=self._interpolation, antialias=True)
        return resized_whole


class EvalTransform:
    """Short side to the input size, then the centre: every pixel decoded, and resized by Pillow with antialiasing.

    Args:
        preprocessing: the student's.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        interpolation = v2.InterpolationMode(preprocessing.interpolation)
        size = preprocessing.image_size
        resize = v2.Resize(size, interpolation=interpolation, antialias=True)
        self._crop = v2.Compose([resize, v2.CenterCrop(size)])

    def __call__(self, picture: Picture) -> Tensor:
        """Resize and crop.

        Raises:
            ImageRejected: the picture is damaged.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        image = self._crop(to_image(picture))
        return torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1)


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels of the whole."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """Cut the box out of a picture that may have been shrunk, without a copy.

        Args:
            pixels: of the whole picture.
            size: height and width before it was shrunk.

        Shapes:
            pixels: (height, width, 3), uint8.
            returns: the same, smaller, with a pixel at least.
        """
        long = 0 if size[0] > size[1] else 1
        factor = round(8 * pixels.shape[long] / size[long]) / 8  # JPEG shrinks by eighths, and fills up the last pixel
        return pixels[_span(self.top, self.height, factor), _span(self.left, self.width, factor)]


def draw_box(size: tuple[int, int], *, min_scale: float, seed: int) -> Box:
    """Draw the box of a random resized crop: ten tries at an area and a ratio of sides, then the middle.

    Args:
        size: height and width of the picture.
        min_scale: least share of its area.
        seed: the same one gives the same box.
    """
    height, width = size
    draws: list[float] = np.random.default_rng(seed).random(2 * _NUM_TRIES + 2).tolist()
    low, high = map(math.log, _RATIO)
    for share, ratio in zip(draws[:_NUM_TRIES], draws[_NUM_TRIES:-2], strict=True):
        area = height * width * (min_scale + (1 - min_scale) * share)
        sides = math.exp(low + (high - low) * ratio)
        box_width, box_height = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = (
                int(draw * (room + 1))
                for draw, room in zip(draws[-2:], (height - box_height, width - box_width), strict=True)
            )
            return Box(top, left, box_height, box_width)
    box_height, box_width = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


class Normalize:
    """Bytes to the numbers that the student takes, in a batch, on the device.

    Args:
        preprocessing: the student's.
        device: where.
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
            returns: the same, channels last, on the device, float32, or under autocast its type: computed in float32,
                and rounded as a convolution rounds what it is given.
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


def _span(start: int, length: int, factor: float) -> slice:
    first = round(start * factor)
    return slice(first, max(first + 1, round((start + length) * factor)))


@functools.cache
def _cv2() -> ModuleType:
    import cv2

    cv2.setNumThreads(0)  # a process that reads pictures has one core
    return cv2
