"""From a picture to the student's input: cropped and resized on the CPU as bytes, normalised on the device."""

from collections.abc import Callable

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_schemas.student_checkpoint import Preprocessing

_Step = Callable[[PIL.Image.Image], PIL.Image.Image]

_RATIO = (3 / 4, 4 / 3)


class TrainCrop:
    """A random crop, the same for the same seed wherever it runs, or the middle.

    Args:
        image_size: side of the output, in pixels.
        min_scale: least share of the picture's area that a crop keeps, its sides 3:4 to 4:3; 0 takes the middle, as
            evaluation does.
        interpolation: of the resize, antialiased.
    """

    def __init__(self, *, image_size: int, min_scale: float, interpolation: str = "bicubic") -> None:
        mode = v2.InterpolationMode(interpolation)
        self._crop: _Step = (
            v2.RandomResizedCrop(image_size, (min_scale, 1.0), _RATIO, interpolation=mode, antialias=True)
            if min_scale
            else _middle(image_size, mode)
        )

    def __call__(self, image: PIL.Image.Image, *, seed: int) -> Tensor:
        """Crop and resize.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return _to_bytes(self._crop(image))


class EvalTransform:
    """Short side to the input size, then the centre.

    Args:
        preprocessing: the student's.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        interpolation = v2.InterpolationMode(preprocessing.interpolation)
        self._crop = _middle(preprocessing.image_size, interpolation)

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """Resize and crop.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        return _to_bytes(self._crop(image))


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
            returns: the same, float32, channels last, on the device.
        """
        images = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        return torch.addcmul(self._shift, images.float(), self._scale)


def _middle(image_size: int, interpolation: v2.InterpolationMode) -> _Step:
    resize = v2.Resize(image_size, interpolation=interpolation, antialias=True)
    middle: _Step = v2.Compose([resize, v2.CenterCrop(image_size)])
    return middle


def _to_bytes(image: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1)
