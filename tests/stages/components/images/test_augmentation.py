"""Augmentations are functions of the image and the seed, whatever is beside it."""

import click
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.options.declaration import click_options
from stages.components.images.augmentation import AUGMENTATIONS, Augment, Augmentation
from stages.distill.options import DistillParams

SIZE = 24


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Smooth, coloured and without symmetry."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    values = np.stack([8 * x + 2 * y, 200 - 5 * y, 4 * (x + y) % 256])
    return torch.from_numpy(values.astype(np.uint8))


def one_of(augment: Augment, image: Tensor, seed: int) -> Tensor:
    """Augment a batch of one."""
    return augment(image[None].clone(), torch.tensor([seed]))[0]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augment__gives_the_same_bytes_for_the_same_seed(name: str, image: Tensor) -> None:
    augment, again = (Augment(AUGMENTATIONS[name]) for _ in range(2))
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    images = [one_of(augment, image, seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    for seed in reversed(range(30)):
        found = one_of(again, image, seed)
        assert (found.shape, found.dtype) == (image.shape, torch.uint8)
        assert torch.equal(found, images[seed])
    num_distinct = len({found.numpy().tobytes() for found in images})
    assert num_distinct > 10 if name == "light" else num_distinct == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_augment__does_to_an_image_what_it_does_to_it_alone(layout: torch.memory_format, image: Tensor) -> None:
    everything = Augmentation(flip=0.5, colour_jitter=0.8, grayscale=0.3, blur=0.5)
    others = torch.randint(256, (15, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch, seeds = torch.cat([image[None], others]), torch.arange(50, 66)
    augment = Augment(everything)
    together = augment(batch.clone().contiguous(memory_format=layout), seeds)
    for number, seed in enumerate(seeds.tolist()):
        assert torch.equal(together[number], one_of(augment, batch[number], seed))
    assert torch.equal(augment(batch[5:9].clone(), seeds[5:9]), together[5:9])


def test_augment__takes_an_empty_batch() -> None:
    nothing = torch.empty(0, 3, 4, 4, dtype=torch.uint8)
    assert Augment(AUGMENTATIONS["light"])(nothing, torch.empty(0, dtype=torch.int64)).shape == nothing.shape


def test_flip__mirrors_the_image(image: Tensor) -> None:
    flip = Augment(Augmentation(flip=0.5))
    found = [one_of(flip, image, seed) for seed in range(40)]
    mirrored = [torch.equal(one, image.flip(2)) for one in found]
    kept = [torch.equal(one, image) for one in found]
    assert all(was_mirrored != was_kept for was_mirrored, was_kept in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_grayscale__takes_the_colours_and_keeps_the_channels(image: Tensor) -> None:
    found = one_of(Augment(Augmentation(grayscale=1.0)), image, 0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found.float().std() > 1


def test_colour_jitter__changes_as_often_and_as_much_as_it_says(image: Tensor) -> None:
    often = Augment(Augmentation(colour_jitter=0.5))
    unchanged = sum(torch.equal(one_of(often, image, seed), image) for seed in range(40))
    assert 10 < unchanged < 30
    brightness = Augmentation(colour_jitter=1.0, jitter_strength=(0.4, 0.0, 0.0, 0.0))
    jitter = Augment(brightness)
    ratios = [one_of(jitter, image, seed)[1].float().mean() / image[1].float().mean() for seed in range(40)]
    assert 0.59 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.41


@pytest.mark.parametrize("part", range(4))
def test_colour_jitter__is_torchvisions(part: int) -> None:
    names = ("brightness", "contrast", "saturation", "hue")
    adjust = getattr(v2.functional, f"adjust_{names[part]}")
    strength = tuple(0.4 if part == each else 0.0 for each in range(4))
    generator = torch.Generator().manual_seed(part)
    image = torch.randint(256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    jitter = Augment(Augmentation(colour_jitter=1.0, jitter_strength=strength))
    factors = []
    for seed in range(12):
        found = one_of(jitter, image, seed).int()
        low = 0.0 if part == 3 else 1.0
        candidates = low + torch.linspace(-0.4, 0.4, 401)
        errors = [(adjust(image, factor).int() - found).abs().float().mean().item() for factor in candidates.tolist()]
        best = int(np.argmin(errors))
        assert errors[best] < 0.8  # of 255 grey levels
        factors.append(candidates[best].item() - low)
    assert min(factors) < -0.15
    assert max(factors) > 0.15


def test_colour_jitter__takes_its_parts_in_any_order(image: Tensor) -> None:
    jitter = Augment(Augmentation(colour_jitter=1.0, jitter_strength=(0.8, 0.8, 0.0, 0.0)))
    found = [one_of(jitter, image, seed) for seed in range(200)]
    assert len({one.numpy().tobytes() for one in found}) == 200


def test_blur__is_a_gaussian_of_each_images_own_width() -> None:
    dot = torch.zeros(3, SIZE + 1, SIZE + 1, dtype=torch.uint8)
    dot[:, SIZE // 2, SIZE // 2] = 255
    blur = Augment(Augmentation(blur=1.0))
    peaks = sorted(int(one_of(blur, dot, seed).max()) for seed in range(60))
    # 255 over the square of the kernel's sum: at a sigma of 2 its middle is 0.2, at 0.1 it is 1
    assert peaks[0] == pytest.approx(255 * 0.2**2, abs=2)
    assert peaks[-1] == 255
    flat = torch.full((3, SIZE, SIZE), 77, dtype=torch.uint8)
    assert torch.equal(one_of(blur, flat, 3), flat)


@pytest.mark.gpu
def test_augment__on_a_gpu_is_that_of_the_cpu_up_to_rounding(image: Tensor) -> None:
    augment, seeds = Augment(Augmentation(flip=0.5, colour_jitter=0.8, grayscale=0.3, blur=0.5)), torch.arange(16)
    batch = image.expand(16, -1, -1, -1).contiguous()
    here, there = augment(batch.clone(), seeds), augment(batch.to("cuda"), seeds).cpu()
    assert (here.int() - there.int()).abs().max() <= 2


def test_blur__smooths_the_image() -> None:
    edge = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    edge[:, :, SIZE // 2 :] = 255
    blur = Augment(Augmentation(blur=1.0))
    steepest = [int(one_of(blur, edge, seed).int().diff(dim=2).max()) for seed in range(30)]
    assert min(steepest) < 80
    assert max(steepest) > 200


def test_augmentations__are_those_that_the_option_offers() -> None:
    [option] = [option for option in click_options(DistillParams) if option.name == "augmentation"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(AUGMENTATIONS)
    assert option.default == "crop"
