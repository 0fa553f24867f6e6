"""Augmentations are functions of the picture and the seed."""

import math

import click
import numpy as np
import PIL.Image
import pytest
import torch

from data_schemas.student_checkpoint import Preprocessing
from pipeline.options import click_options
from stages.distill.stage import DistillParams
from stages.transforms import AUGMENTATIONS, Augmentation, EvalTransform, TrainTransform

SIZE = 24


@pytest.fixture(scope="module")
def picture() -> PIL.Image.Image:
    """Smooth, coloured and without symmetry, 50 x 40."""
    y, x = np.mgrid[0:40, 0:50]
    values = np.stack([4 * x + y, 200 - 3 * y, 2 * (x + y) % 256], axis=2)
    return PIL.Image.fromarray(values.astype(np.uint8))


def plain(image: PIL.Image.Image) -> torch.Tensor:
    return EvalTransform(Preprocessing(image_size=SIZE))(image)


def crop_box(image: PIL.Image.Image, *, min_scale: float) -> tuple[int, int, int, int]:
    """The crop that the global random numbers lead to: share of the area, then the logarithm of the ratio of sides."""
    while True:
        area = image.width * image.height * torch.empty(1).uniform_(min_scale, 1.0).item()
        ratio = math.exp(torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3)).item())
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= image.width and height <= image.height:
            top = int(torch.randint(0, image.height - height + 1, (1,)))
            left = int(torch.randint(0, image.width - width + 1, (1,)))
            return left, top, left + width, top + height


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_train_transform__gives_the_same_bytes_for_the_same_seed(name: str, picture: PIL.Image.Image) -> None:
    transform, again = (TrainTransform(image_size=SIZE, augmentation=AUGMENTATIONS[name]) for _ in range(2))
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    images = [transform(picture, seed=seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    for seed in reversed(range(30)):
        image = again(picture, seed=seed)
        assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
        assert torch.equal(image, images[seed])
    num_distinct = len({image.numpy().tobytes() for image in images})
    assert num_distinct == 1 if name == "none" else num_distinct > 15  # a crop that does not fit falls back on one


def test_crop__is_a_random_resized_crop_and_no_more(picture: PIL.Image.Image) -> None:
    transform, narrow = TrainTransform(image_size=SIZE), TrainTransform(image_size=SIZE, crop_min_scale=0.3)
    for seed in range(5):
        for scale, found in ((0.9, transform(picture, seed=seed)), (0.3, narrow(picture, seed=seed))):
            torch.manual_seed(seed)
            box = crop_box(picture, min_scale=scale)
            expected = picture.crop(box).resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC)
            assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_none__is_what_evaluation_does(picture: PIL.Image.Image) -> None:
    none = AUGMENTATIONS["none"]
    assert torch.equal(TrainTransform(image_size=SIZE, augmentation=none)(picture, seed=3), plain(picture))
    bilinear = TrainTransform(image_size=SIZE, augmentation=none, interpolation="bilinear")
    expected = EvalTransform(Preprocessing(image_size=SIZE, interpolation="bilinear"))(picture)
    assert torch.equal(bilinear(picture, seed=3), expected)
    assert not torch.equal(expected, plain(picture))
    cropped = TrainTransform(image_size=SIZE, augmentation=none, crop_min_scale=0.3)
    expected = TrainTransform(image_size=SIZE, crop_min_scale=0.3)(picture, seed=3)
    assert torch.equal(cropped(picture, seed=3), expected)


def test_flip__mirrors_the_picture(picture: PIL.Image.Image) -> None:
    flip = TrainTransform(image_size=SIZE, augmentation=Augmentation(flip=0.5))
    found = [flip(picture, seed=seed) for seed in range(40)]
    mirrored = [torch.equal(image, plain(picture).flip(2)) for image in found]
    kept = [torch.equal(image, plain(picture)) for image in found]
    assert all(was_mirrored != was_kept for was_mirrored, was_kept in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30


def test_grayscale__takes_the_colours_and_keeps_the_channels(picture: PIL.Image.Image) -> None:
    image = TrainTransform(image_size=SIZE, augmentation=Augmentation(grayscale=1.0))(picture, seed=0)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert image.float().std() > 1


def test_colour_jitter__changes_as_often_and_as_much_as_it_says(picture: PIL.Image.Image) -> None:
    often = TrainTransform(image_size=SIZE, augmentation=Augmentation(colour_jitter=0.5))
    unchanged = sum(torch.equal(often(picture, seed=seed), plain(picture)) for seed in range(40))
    assert 10 < unchanged < 30
    brightness = Augmentation(colour_jitter=1.0, jitter_strength=(0.4, 0.0, 0.0, 0.0))
    jitter = TrainTransform(image_size=SIZE, augmentation=brightness)
    ratios = [jitter(picture, seed=seed)[1].float().mean() / plain(picture)[1].float().mean() for seed in range(40)]
    assert 0.59 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.41


def test_blur__smooths_the_picture(picture: PIL.Image.Image) -> None:
    edge = PIL.Image.new("RGB", (SIZE, SIZE))
    edge.paste((255, 255, 255), (SIZE // 2, 0, SIZE, SIZE))
    blur = TrainTransform(image_size=SIZE, augmentation=Augmentation(blur=1.0))
    steepest = [int(blur(edge, seed=seed).int().diff(dim=2).max()) for seed in range(30)]
    assert min(steepest) < 80
    assert max(steepest) > 200


def test_augmentations__are_those_that_the_option_offers() -> None:
    [option] = [option for option in click_options(DistillParams) if option.name == "augmentation"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(AUGMENTATIONS)
    assert option.default == "crop"
