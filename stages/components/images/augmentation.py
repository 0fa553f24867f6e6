"""Augment images after the crop: in a batch, on any device, each by its own seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows it by
from numpy.typing import NDArray
from torch import Tensor

from stages.components.compute.device import rows_at_a_time, send
from stages.components.compute.keyed_random import uniform_numbers

_BLUR_SIGMA = (0.1, 2.0)  # in pixels of the student's input
_BLUR_RADIUS = 6
_LUMA = (0.299, 0.587, 0.114)
_ORDERS = np.array(list(permutations(range(4))))  # of the parts of colour jitter

_Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Augmentation:
    """Changes that training makes to an image, in this order; a probability of 0 leaves a part out.

    An image's caption stays the same: it may mention sides and colours that no longer fit, the price of variety.

    Args:
        crop_min_scale: Least share of the image's area that a random crop keeps, its sides 3:4 to 4:3; 0 takes the
            middle, as evaluation does.
        flip: Probability of a mirror image.
        colour_jitter: Probability of other colours.
        jitter_strength: Distance that brightness, contrast and saturation may go from 1, and the hue from 0, in turns.
        grayscale: Probability of no colours.
        blur: Probability of a Gaussian blur with a sigma of 0.1 to 2 pixels.
    """

    crop_min_scale: float = 0.0
    flip: float = 0.0
    colour_jitter: float = 0.0
    jitter_strength: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    grayscale: float = 0.0
    blur: float = 0.0


AUGMENTATIONS = {
    "crop": Augmentation(crop_min_scale=0.9),
    # ProtoCLIP's, arXiv:2206.10996
    "light": Augmentation(crop_min_scale=0.5, flip=0.5, colour_jitter=0.2, grayscale=0.2, blur=0.2),
    "none": Augmentation(),
}


class Augment:
    """An augmentation's part after the crop, for a whole batch at once.

    The result for an image depends on the image and its seed, not on its neighbours: parameters are drawn from each
    seed on the CPU, and no operation adds up over images. Another kind of device may round differently.

    Args:
        augmentation: Changes to make, and how probable each is.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        self._augmentation = augmentation
        self._parts = [
            part
            for part, probability in (
                (self._flip, augmentation.flip),
                (self._jitter, augmentation.colour_jitter),
                (self._grayscale, augmentation.grayscale),
                (self._blur, augmentation.blur),
            )
            if probability
        ]

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Augment a batch of images.

        Args:
            images: Images of a batch; changed in place where they are not changed as a whole.
            seeds: Seed of each image.

        Shapes:
            images: (batch, 3, size, size), uint8.
            seeds: (batch,), int64, on the CPU.
            returns: as images.
        """
        if not self._parts or not len(images):
            return images
        draws = uniform_numbers(seeds.numpy(), _Columns.NUM)
        for part in self._parts:
            part(images, draws)
        return images

    def _flip(self, images: Tensor, draws: _Draws) -> None:
        _change(images, draws[:, _Columns.FLIP] < self._augmentation.flip, lambda some, _: some.flip(3))

    def _grayscale(self, images: Tensor, draws: _Draws) -> None:
        is_gray = draws[:, _Columns.GRAY] < self._augmentation.grayscale
        _change(images, is_gray, lambda some, _: _gray(some.float()).expand(-1, 3, -1, -1))

    def _blur(self, images: Tensor, draws: _Draws) -> None:
        low, high = _BLUR_SIGMA
        kernels = _kernels(low + (high - low) * draws[:, _Columns.SIGMA])
        is_blurred = draws[:, _Columns.BLUR] < self._augmentation.blur
        _change(images, is_blurred, lambda some, chosen: _blurred(some.float(), kernels[chosen.numpy()]))

    def _jitter(self, images: Tensor, draws: _Draws) -> None:
        brightness, contrast, saturation, hue = self._augmentation.jitter_strength
        spans = [(max(0.0, 1 - part), 1 + part) for part in (brightness, contrast, saturation)] + [(-hue, hue)]
        lows, highs = np.array(spans).T
        factors = torch.from_numpy((lows + (highs - lows) * draws[:, _Columns.FACTORS]).astype(np.float32))
        orders = _ORDERS[(len(_ORDERS) * draws[:, _Columns.ORDER]).astype(np.int64)]

        def jitter(some: Tensor, chosen: Tensor) -> Tensor:
            colours = some.float()
            own_orders, own_factors = orders[chosen.numpy()], factors[chosen]
            for turn in range(len(_CHANGES)):
                for part, change in enumerate(_CHANGES):
                    if spans[part][0] < spans[part][1]:
                        with_factors = partial(_with_factors, change, own_factors[:, part])
                        _change(colours, own_orders[:, turn] == part, with_factors)
            return colours

        _change(images, draws[:, _Columns.JITTER] < self._augmentation.colour_jitter, jitter)


class _Columns:
    """Columns of an image's random numbers: which change each one decides."""

    FLIP, JITTER, ORDER, GRAY, BLUR, SIGMA = range(6)
    FACTORS = slice(6, 10)
    NUM = 10


def _change(images: Tensor, is_chosen: NDArray[np.bool_], change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change some images in place; bytes are rounded. The choice is known on the CPU, so no device is asked."""
    for chosen in torch.split(torch.from_numpy(np.flatnonzero(is_chosen)), rows_at_a_time(images)):
        if not len(chosen):
            return
        places = send(chosen, images.device)
        changed = change(images.index_select(0, places), chosen)
        if changed.dtype != images.dtype:
            changed = changed.round().clamp_(0, 255).to(images.dtype)
        if images.device.type == "cpu":  # where torch would copy number by number
            images.numpy()[chosen.numpy()] = changed.numpy()
        else:
            images[places] = changed


def _gray(colours: Tensor) -> Tensor:
    """Compute grey levels, whole numbers in float: (images, 3, ...) to (images, 1, ...)."""
    red, green, blue = (part * weight for part, weight in zip(colours.chunk(3, dim=1), _LUMA, strict=True))
    grays: Tensor = red + green + blue
    return grays.round_()


def _brighten(colours: Tensor, factors: Tensor) -> Tensor:
    return (colours * factors).clamp_(0, 255)


def _contrast(colours: Tensor, factors: Tensor) -> Tensor:
    grays = _gray(colours).long()  # whole numbers add up to the same in any order
    means = (grays.sum(dim=(1, 2, 3), keepdim=True) / grays[0].numel()).round_()
    return (means + (colours - means) * factors).clamp_(0, 255)


def _saturate(colours: Tensor, factors: Tensor) -> Tensor:
    grays = _gray(colours)
    return (grays + (colours - grays) * factors).clamp_(0, 255)


def _turn_hue(colours: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV, where one turn is the whole circle."""
    red, green, blue = colours.chunk(3, dim=1)
    value = colours.amax(dim=1, keepdim=True)
    chroma = value - colours.amin(dim=1, keepdim=True)
    safe = chroma.clamp_min(1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    places = torch.arange(5.0, 0.0, -2.0, device=colours.device).view(1, 3, 1, 1)  # 5, 3, 1; made where they are used
    distance = (hue + 6 * turns + places).remainder(6)
    return value - chroma * torch.minimum(distance, 4 - distance).clamp_(0, 1)


def _with_factors(
    change: Callable[[Tensor, Tensor], Tensor], factors: Tensor, colours: Tensor, chosen: Tensor
) -> Tensor:
    return change(colours, send(factors[chosen], colours.device)[:, None, None, None])


_CHANGES = (_brighten, _contrast, _saturate, _turn_hue)


def _kernels(sigmas: _Draws) -> _Draws:
    """Compute halves of Gaussian kernels that add up to 1, from the middle outwards, 0 beyond three sigmas."""
    places = np.arange(_BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (places / sigmas[:, None]) ** 2) * (places < 3 * sigmas[:, None] + 1)
    halves: _Draws = weights / (2 * weights.sum(axis=1) - weights[:, 0])[:, None]
    return halves


def _blurred(colours: Tensor, kernels: _Draws) -> Tensor:
    """Blur along rows, then columns, repeating edge pixels; tap by tap, so that all add up in one order.

    Shapes:
        colours: (images, 3, size, size), float32.
        kernels: (images, _BLUR_RADIUS + 1).
        returns: as colours.
    """
    radius = int(np.flatnonzero(kernels.any(axis=0))[-1])
    weights = send(torch.from_numpy(kernels.astype(np.float32)), colours.device)[:, :, None, None, None].unbind(dim=1)
    for dim, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        size = colours.shape[dim]
        padded = F.pad(colours, padding, mode="replicate")
        colours = colours * weights[0]
        for step in range(1, radius + 1):
            both = padded.narrow(dim, radius - step, size) + padded.narrow(dim, radius + step, size)
            colours.addcmul_(both, weights[step])
    return colours
