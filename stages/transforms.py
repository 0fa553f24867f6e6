"""From a picture to the student's input: augmented and resized on the CPU as bytes, normalised on the device."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from torch import Tensor
from torchvision.transforms import v2

from data_schemas.student_checkpoint import Preprocessing

_Step = Callable[[PIL.Image.Image], PIL.Image.Image]

_RATIO = (3 / 4, 4 / 3)
_BLUR_SIGMA = (0.1, 2.0)  # in pixels of the student's input


@dataclass(frozen=True)
class Augmentation:
    """What training does to a picture, in this order; a probability of 0 leaves a part out.

    A picture's caption stays what it was: flips and colours that it may speak of are the price of the variety.

    Args:
        crop_min_scale: least share of the picture's area that a random crop keeps, its sides 3:4 to 4:3; 0 takes the
            middle, as evaluation does.
        flip: probability of a mirror image.
        colour_jitter: probability of other colours.
        jitter_strength: how far brightness, contrast and saturation go from 1, and the hue from 0, in turns.
        grayscale: probability of no colours.
        blur: probability of a Gaussian blur with a sigma of 0.1 to 2 pixels.
    """

    crop_min_scale: float = 0.0
    flip: float = 0.0
    colour_jitter: float = 0.0
    jitter_strength: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    grayscale: float = 0.0
    blur: float = 0.0


AUGMENTATIONS = {
    "crop": Augmentation(crop_min_scale=0.9),
    # that of ProtoCLIP, arXiv:2206.10996
    "light": Augmentation(crop_min_scale=0.5, flip=0.5, colour_jitter=0.2, grayscale=0.2, blur=0.2),
    "none": Augmentation(),
}


class TrainTransform:
    """An augmentation, the same for the same seed wherever it runs.

    Args:
        image_size: side of the output, in pixels.
        augmentation: what is done to pictures.
        crop_min_scale: instead of the augmentation's own, unless 0.
        interpolation: of the resize, antialiased.
    """

    def __init__(
        self,
        *,
        image_size: int,
        augmentation: Augmentation = AUGMENTATIONS["crop"],
        crop_min_scale: float = 0.0,
        interpolation: str = "bicubic",
    ) -> None:
        if crop_min_scale:
            augmentation = replace(augmentation, crop_min_scale=crop_min_scale)
        self._steps = _steps(augmentation, image_size=image_size, interpolation=v2.InterpolationMode(interpolation))

    def __call__(self, image: PIL.Image.Image, *, seed: int) -> Tensor:
        """Augment and resize.

        Shapes:
            returns: (3, image_size, image_size), uint8.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for step in self._steps:
                image = step(image)
        return _to_bytes(image)


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


def _steps(augmentation: Augmentation, *, image_size: int, interpolation: v2.InterpolationMode) -> list[_Step]:
    scale = (augmentation.crop_min_scale, 1.0)
    steps: list[_Step] = [
        v2.RandomResizedCrop(image_size, scale=scale, ratio=_RATIO, interpolation=interpolation, antialias=True)
        if augmentation.crop_min_scale
        else _middle(image_size, interpolation)
    ]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.colour_jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(*augmentation.jitter_strength)], p=augmentation.colour_jitter))
    if augmentation.grayscale:
        steps.append(v2.RandomGrayscale(augmentation.grayscale))
    if augmentation.blur:
        steps.append(v2.RandomApply([v2.Lambda(_blur)], p=augmentation.blur))
    return steps


def _middle(image_size: int, interpolation: v2.InterpolationMode) -> _Step:
    resize = v2.Resize(image_size, interpolation=interpolation, antialias=True)
    middle: _Step = v2.Compose([resize, v2.CenterCrop(image_size)])
    return middle


def _blur(image: PIL.Image.Image) -> PIL.Image.Image:
    """Blur with Pillow, which counts in whole numbers: torchvision's convolution may round otherwise elsewhere."""
    sigma = torch.empty(1).uniform_(*_BLUR_SIGMA).item()
    return image.filter(PIL.ImageFilter.GaussianBlur(sigma))


def _to_bytes(image: PIL.Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1)
