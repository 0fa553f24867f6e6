"""Crops are functions of the picture and the seed."""

import functools
import io
import math
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

from data_schemas.student_checkpoint import Preprocessing
from stages.components.images.crop_boxes import Box, draw_box
from stages.components.images.lazy_image import DecodedPicture, JpegPicture, Picture, open_picture
from stages.components.images.transforms import EvalTransform, Normalize, TrainCrop

SIZE = 24


@pytest.fixture(scope="module")
def picture() -> DecodedPicture:
    """Smooth, coloured and without symmetry, 50 x 40."""
    y, x = np.mgrid[0:40, 0:50]
    values = np.stack([4 * x + y, 200 - 3 * y, 2 * (x + y) % 256], axis=2)
    return DecodedPicture(values.astype(np.uint8))


def plain(picture: Picture) -> torch.Tensor:
    return EvalTransform(Preprocessing(image_size=SIZE))(picture)


def jpeg(pixels: NDArray[np.uint8]) -> JpegPicture:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return JpegPicture(file.getvalue(), (pixels.shape[0], pixels.shape[1]))


@functools.cache
def scene(height: int, width: int, *, waves: int) -> NDArray[np.uint8]:
    """Waves in all directions with as much power in each octave, as photographs have; more of them are finer detail."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    picture = np.zeros((height, width, 3))
    for wave in range(1, waves + 1):
        down, across = random.normal(size=2) * wave
        phase = random.uniform(0, 2 * np.pi, 3)
        picture += np.sin(2 * np.pi * (down * y + across * x)[..., None] + phase) / wave
    return np.clip(128 + 60 * picture, 0, 255).astype(np.uint8)


def exact(picture: Picture, box: Box, size: int, *, factor: float = 1.0) -> NDArray[np.uint8]:
    """The box of the whole picture, on the pixels of one shrunk by a factor, by Pillow's antialiased bicubic."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    image = PIL.Image.fromarray(picture.pixels())
    place = tuple(min(round(edge * factor) / factor, side) for edge, side in zip(edges, image.size * 2, strict=True))
    if factor == 1:
        return np.asarray(image.crop(place).resize((size, size), PIL.Image.Resampling.BICUBIC))
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BICUBIC, box=place))


def differences(picture: Picture, size: int, seed: int) -> NDArray[np.int64]:
    box = draw_box(picture.size, min_scale=0.9, seed=seed)
    shrunk = picture.pixels(scale=min(1.0, size / min(box.height, box.width)))
    expected = exact(picture, box, size, factor=round(8 * max(shrunk.shape) / max(picture.size)) / 8)
    found = TrainCrop(image_size=size, min_scale=0.9)(picture, seed=seed).permute(1, 2, 0).numpy()
    return np.abs(found.astype(np.int64) - expected)


def test_crop__gives_the_same_bytes_for_the_same_seed(picture: DecodedPicture) -> None:
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


@pytest.mark.parametrize("scale", [0.9, 0.3])
def test_crop__shows_the_box_and_no_more(scale: float) -> None:
    crop, picture = TrainCrop(image_size=SIZE, min_scale=scale), DecodedPicture(scene(180, 240, waves=20))
    for seed in range(5):
        expected = exact(picture, draw_box(picture.size, min_scale=scale, seed=seed), SIZE)
        found = crop(picture, seed=seed).permute(1, 2, 0).numpy()
        assert np.abs(found.astype(np.int64) - expected).max() <= 3  # of antialiased kernels that round otherwise


# In grey levels, mean and 99th percentile; of what is drawn here, and of photographs.
BOUNDS = {"smooth": (0.6, 2), "detailed": (1.8, 8), "photographs": (2.4, 20)}


@pytest.mark.parametrize("size", [64, 112, 224, 300])
@pytest.mark.parametrize(("kind", "waves"), [("smooth", 5), ("detailed", 100)])
def test_crop__is_near_the_exact_resize(kind: str, waves: int, size: int) -> None:
    pictures = [jpeg(scene(375, 500, waves=waves)), DecodedPicture(scene(256, 341, waves=waves))]
    mean, most = BOUNDS[kind]
    for picture in pictures:
        found = np.concatenate([differences(picture, size, seed).ravel() for seed in range(4)])
        assert found.mean() < mean
        assert np.percentile(found, 99) <= most


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
@pytest.mark.parametrize("size", [64, 112, 224])
def test_crop__of_photographs_is_near_the_exact_resize(size: int) -> None:
    folder = Path(os.environ["PROTORKD_TEST_DATA"]) / "photos_fullsize" / "images"
    mean, most = BOUNDS["photographs"]
    pictures = [open_picture(path) for path in sorted(folder.iterdir())[:30]]
    found = np.concatenate([differences(picture, size, seed).ravel() for seed, picture in enumerate(pictures)])
    assert found.mean() < mean
    assert np.percentile(found, 99) <= most


def test_crop__of_0_is_the_middle_as_in_evaluation(picture: DecodedPicture) -> None:
    assert torch.equal(TrainCrop(image_size=SIZE, min_scale=0)(picture, seed=3), plain(picture))
    bilinear = TrainCrop(image_size=SIZE, min_scale=0, interpolation="bilinear")
    expected = EvalTransform(Preprocessing(image_size=SIZE, interpolation="bilinear"))(picture)
    assert torch.equal(bilinear(picture, seed=3), expected)
    assert not torch.equal(expected, plain(picture))


def test_crop__honours_the_interpolation() -> None:
    picture = DecodedPicture(scene(180, 240, waves=100))
    cubic, linear = (
        TrainCrop(image_size=SIZE, min_scale=0.9, interpolation=name)(picture, seed=0)
        for name in ("bicubic", "bilinear")
    )
    assert not torch.equal(cubic, linear)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (500, 2), (SIZE, SIZE)])
def test_crop__takes_pictures_of_any_size(size: tuple[int, int]) -> None:
    picture = DecodedPicture(scene(*size, waves=5))
    assert TrainCrop(image_size=SIZE, min_scale=0.9)(picture, seed=0).shape == (3, SIZE, SIZE)
    assert plain(picture).shape == (3, SIZE, SIZE)


def test_transforms__take_pixels_that_must_not_be_written() -> None:
    pixels = scene(60, 80, waves=5).copy()
    pixels.flags.writeable = False  # as those of a mapped pack are
    for size in (SIZE, 50, 100):
        TrainCrop(image_size=size, min_scale=0.9)(DecodedPicture(pixels), seed=0)
    plain(DecodedPicture(pixels))


def test_eval_transform__is_the_resize_of_pillow(picture: DecodedPicture) -> None:
    image = PIL.Image.fromarray(picture.decoded).resize((30, SIZE), PIL.Image.Resampling.BICUBIC)
    expected = np.asarray(image.crop((3, 0, 27, SIZE)))
    assert math.isclose(50 * SIZE / 40, 30)
    assert np.array_equal(plain(picture).permute(1, 2, 0).numpy(), expected)


def test_normalize__under_autocast_gives_what_a_convolution_would_make_of_it() -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    normalize = Normalize(Preprocessing(image_size=8), torch.device("cpu"))
    numbers = normalize(images)
    assert numbers.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalize(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, numbers.to(torch.bfloat16))
