"""From a picture to the student's input: cropped and resized on the CPU as bytes, normalised on the device."""

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_schemas.student_checkpoint import Preprocessing

_RATIO = (3 / 4, 4 / 3)


class TrainTransform:
    """Random resized crop, the same for the same seed wherever it runs.

    Args:
        image_size: side of the output, in pixels.
        crop_min_scale: least share of the picture's area that a crop keeps, 0 to 1.
    """

    def __init__(self, *, image_size: int, crop_min_scale: float) -> None:
        self._crop = v2.RandomResizedCrop(
            image_size,
            scale=(crop_min_scale, 1.0),
            ratio=_RATIO,
            interpolation=v2.InterpolationMode.BICUBIC,
            antialias=True,
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
        size = preprocessing.image_size
        interpolation = v2.InterpolationMode(preprocessing.interpolation)
        self._resize = v2.Resize(size, interpolation=interpolation, antialias=True)
        self._crop = v2.CenterCrop(size)

    def __call__(self, image: PIL.Image.Image) -> Tensor:
        """Resize and crop.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        return _to_bytes(self._crop(self._resize(image)))


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


def _to_bytes(image: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1)
