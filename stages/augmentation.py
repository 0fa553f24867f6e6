"""What training does to pictures after the crop: a function of the seed alone, wherever it runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from torch import Tensor
from torchvision.transforms import v2

_Step = Callable[[PIL.Image.Image], PIL.Image.Image]

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


class Augment:
    """An augmentation's part after the crop.

    Args:
        augmentation: what is done to pictures.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        self._steps = _steps(augmentation)

    def __call__(self, image: Tensor, *, seed: int) -> Tensor:
        """Augment.

        Shapes:
            image: (3, size, size), uint8.
            returns: the same.
        """
        if not self._steps:
            return image
        picture = PIL.Image.fromarray(image.permute(1, 2, 0).numpy())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for step in self._steps:
                picture = step(picture)
        return torch.from_numpy(np.array(picture, copy=True)).permute(2, 0, 1)


def _steps(augmentation: Augmentation) -> list[_Step]:
    steps: list[_Step] = []
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.colour_jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(*augmentation.jitter_strength)], p=augmentation.colour_jitter))
    if augmentation.grayscale:
        steps.append(v2.RandomGrayscale(augmentation.grayscale))
    if augmentation.blur:
        steps.append(v2.RandomApply([v2.Lambda(_blur)], p=augmentation.blur))
    return steps


def _blur(image: PIL.Image.Image) -> PIL.Image.Image:
    """Blur with Pillow, which counts in whole numbers: torchvision's convolution may round otherwise elsewhere."""
    sigma = torch.empty(1).uniform_(*_BLUR_SIGMA).item()
    return image.filter(PIL.ImageFilter.GaussianBlur(sigma))
