"""Crops are functions of the picture and the seed."""

import math

import numpy as np
import PIL.Image
import pytest
import torch

from data_schemas.student_checkpoint import Preprocessing
from stages.transforms import EvalTransform, TrainCrop

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


def test_crop__gives_the_same_bytes_for_the_same_seed(picture: PIL.Image.Image) -> None:
    crop, again = (TrainCrop(image_size=SIZE, min_scale=0.9) for _ in range(2))
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    images = [crop(picture, seed=seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    for seed in reversed(range(30)):
        image = again(picture, seed=seed)
        assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
        assert torch.equal(image, images[seed])
    assert len({image.numpy().tobytes() for image in images}) > 15  # a crop that does not fit falls back on one


def test_crop__is_a_random_resized_crop_and_no_more(picture: PIL.Image.Image) -> None:
    wide, narrow = TrainCrop(image_size=SIZE, min_scale=0.9), TrainCrop(image_size=SIZE, min_scale=0.3)
    for seed in range(5):
        for scale, found in ((0.9, wide(picture, seed=seed)), (0.3, narrow(picture, seed=seed))):
            torch.manual_seed(seed)
            box = crop_box(picture, min_scale=scale)
            expected = picture.crop(box).resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC)
            assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_crop__of_0_is_the_middle_as_in_evaluation(picture: PIL.Image.Image) -> None:
    assert torch.equal(TrainCrop(image_size=SIZE, min_scale=0)(picture, seed=3), plain(picture))
    bilinear = TrainCrop(image_size=SIZE, min_scale=0, interpolation="bilinear")
    expected = EvalTransform(Preprocessing(image_size=SIZE, interpolation="bilinear"))(picture)
    assert torch.equal(bilinear(picture, seed=3), expected)
    assert not torch.equal(expected, plain(picture))
