"""Augmentations are functions of the picture and the seed."""

import click
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.options import click_options
from stages.augmentation import AUGMENTATIONS, Augment, Augmentation
from stages.distill.stage import DistillParams

SIZE = 24


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Smooth, coloured and without symmetry."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    values = np.stack([8 * x + 2 * y, 200 - 5 * y, 4 * (x + y) % 256])
    return torch.from_numpy(values.astype(np.uint8))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augment__gives_the_same_bytes_for_the_same_seed(name: str, image: Tensor) -> None:
    augment, again = (Augment(AUGMENTATIONS[name]) for _ in range(2))
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    images = [augment(image, seed=seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    for seed in reversed(range(30)):
        found = again(image, seed=seed)
        assert (found.shape, found.dtype) == (image.shape, torch.uint8)
        assert torch.equal(found, images[seed])
    num_distinct = len({found.numpy().tobytes() for found in images})
    assert num_distinct > 10 if name == "light" else num_distinct == 1


def test_flip__mirrors_the_picture(image: Tensor) -> None:
    flip = Augment(Augmentation(flip=0.5))
    found = [flip(image, seed=seed) for seed in range(40)]
    mirrored = [torch.equal(one, image.flip(2)) for one in found]
    kept = [torch.equal(one, image) for one in found]
    assert all(was_mirrored != was_kept for was_mirrored, was_kept in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_grayscale__takes_the_colours_and_keeps_the_channels(image: Tensor) -> None:
    found = Augment(Augmentation(grayscale=1.0))(image, seed=0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found.float().std() > 1


def test_colour_jitter__changes_as_often_and_as_much_as_it_says(image: Tensor) -> None:
    often = Augment(Augmentation(colour_jitter=0.5))
    unchanged = sum(torch.equal(often(image, seed=seed), image) for seed in range(40))
    assert 10 < unchanged < 30
    brightness = Augmentation(colour_jitter=1.0, jitter_strength=(0.4, 0.0, 0.0, 0.0))
    jitter = Augment(brightness)
    ratios = [jitter(image, seed=seed)[1].float().mean() / image[1].float().mean() for seed in range(40)]
    assert 0.59 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.41


def test_blur__smooths_the_picture() -> None:
    edge = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    edge[:, :, SIZE // 2 :] = 255
    blur = Augment(Augmentation(blur=1.0))
    steepest = [int(blur(edge, seed=seed).int().diff(dim=2).max()) for seed in range(30)]
    assert min(steepest) < 80
    assert max(steepest) > 200


def test_augmentations__are_those_that_the_option_offers() -> None:
    [option] = [option for option in click_options(DistillParams) if option.name == "augmentation"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(AUGMENTATIONS)
    assert option.default == "crop"
