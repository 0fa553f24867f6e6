"""Crops are functions of the image and the seed."""

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

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.images.crop_boxes import Box, draw_box
from stages.components.images.lazy_image import DecodedImage, JpegImage, LazyImage, open_lazily
from stages.components.images.transforms import EvalTransform, Normalize, TrainCrop

SIZE = 24


@pytest.fixture(scope="module")
def image() -> DecodedImage:
    """Smooth, coloured and without symmetry, 50 x 40."""
    y, x = np.mgrid[0:40, 0:50]
    values = np.stack([4 * x + y, 200 - 3 * y, 2 * (x + y) % 256], axis=2)
    return DecodedImage(values.astype(np.uint8))


def plain(image: LazyImage) -> torch.Tensor:
    return EvalTransform(Preprocessing(image_size=SIZE))(image)


def jpeg(pixels: NDArray[np.uint8]) -> JpegImage:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return JpegImage(file.getvalue(), (pixels.shape[0], pixels.shape[1]))


@functools.cache
def scene(height: int, width: int, *, waves: int) -> NDArray[np.uint8]:
    """Waves in all directions with as much power in each octave, as photographs have; more of them are finer detail."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.zeros((height, width, 3))
    for wave in range(1, waves + 1):
        down, across = random.normal(size=2) * wave
        phase = random.uniform(0, 2 * np.pi, 3)
        image += np.sin(2 * np.pi * (down * y + across * x)[..., None] + phase) / wave
    return np.clip(128 + 60 * image, 0, 255).astype(np.uint8)


def exact(image: LazyImage, box: Box, size: int, *, factor: float = 1.0) -> NDArray[np.uint8]:
    """Return the box of the whole image, on the pixels of one shrunk by a factor, by Pillow's antialiased bicubic."""
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    whole = PIL.Image.fromarray(image.pixels())
    place = tuple(min(round(edge * factor) / factor, side) for edge, side in zip(edges, whole.size * 2, strict=True))
    if factor == 1:
        return np.asarray(whole.crop(place).resize((size, size), PIL.Image.Resampling.BICUBIC))
    return np.asarray(whole.resize((size, size), PIL.Image.Resampling.BICUBIC, box=place))


def differences(image: LazyImage, size: int, seed: int) -> NDArray[np.int64]:
    box = draw_box(image.size, min_scale=0.9, seed=seed)
    shrunk = image.pixels(scale=min(1.0, size / min(box.height, box.width)))
    expected = exact(image, box, size, factor=round(8 * max(shrunk.shape) / max(image.size)) / 8)
    found = TrainCrop(image_size=size, min_scale=0.9)(image, seed=seed).permute(1, 2, 0).numpy()
    return np.abs(found.astype(np.int64) - expected)


def test_crop__gives_the_same_bytes_for_the_same_seed(image: DecodedImage) -> None:
    crop, again = (TrainCrop(image_size=SIZE, min_scale=0.9) for _ in range(2))
    torch.manual_seed(99)  # the global stream is neither read nor moved
    state = torch.get_rng_state()
    crops = [crop(image, seed=seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    for seed in reversed(range(30)):
        cropped = again(image, seed=seed)
        assert (cropped.shape, cropped.dtype) == ((3, SIZE, SIZE), torch.uint8)
        assert torch.equal(cropped, crops[seed])
    assert len({cropped.numpy().tobytes() for cropped in crops}) > 15  # a crop that does not fit falls back on one


@pytest.mark.parametrize("scale", [0.9, 0.3])
def test_crop__shows_the_box_and_no_more(scale: float) -> None:
    crop, image = TrainCrop(image_size=SIZE, min_scale=scale), DecodedImage(scene(180, 240, waves=20))
    for seed in range(5):
        expected = exact(image, draw_box(image.size, min_scale=scale, seed=seed), SIZE)
        found = crop(image, seed=seed).permute(1, 2, 0).numpy()
        assert np.abs(found.astype(np.int64) - expected).max() <= 3  # of antialiased kernels that round otherwise


# In grey levels, mean and 99th percentile; of what is drawn here, and of photographs.
BOUNDS = {"smooth": (0.6, 2), "detailed": (1.8, 8), "photographs": (2.4, 20)}


@pytest.mark.parametrize("size", [64, 112, 224, 300])
@pytest.mark.parametrize(("kind", "waves"), [("smooth", 5), ("detailed", 100)])
def test_crop__is_near_the_exact_resize(kind: str, waves: int, size: int) -> None:
    images = [jpeg(scene(375, 500, waves=waves)), DecodedImage(scene(256, 341, waves=waves))]
    mean, most = BOUNDS[kind]
    for image in images:
        found = np.concatenate([differences(image, size, seed).ravel() for seed in range(4)])
        assert found.mean() < mean
        assert np.percentile(found, 99) <= most


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
@pytest.mark.parametrize("size", [64, 112, 224])
def test_crop__of_photographs_is_near_the_exact_resize(size: int) -> None:
    folder = Path(os.environ["PROTORKD_TEST_DATA"]) / "photos_fullsize" / "images"
    mean, most = BOUNDS["photographs"]
    images = [open_lazily(path) for path in sorted(folder.iterdir())[:30]]
    found = np.concatenate([differences(image, size, seed).ravel() for seed, image in enumerate(images)])
    assert found.mean() < mean
    assert np.percentile(found, 99) <= most


def test_crop__of_0_is_the_middle_as_in_evaluation(image: DecodedImage) -> None:
    assert torch.equal(TrainCrop(image_size=SIZE, min_scale=0)(image, seed=3), plain(image))
    bilinear = TrainCrop(image_size=SIZE, min_scale=0, interpolation="bilinear")
    expected = EvalTransform(Preprocessing(image_size=SIZE, interpolation="bilinear"))(image)
    assert torch.equal(bilinear(image, seed=3), expected)
    assert not torch.equal(expected, plain(image))


def test_crop__honours_the_interpolation() -> None:
    image = DecodedImage(scene(180, 240, waves=100))
    cubic, linear = (
        TrainCrop(image_size=SIZE, min_scale=0.9, interpolation=name)(image, seed=0) for name in ("bicubic", "bilinear")
    )
    assert not torch.equal(cubic, linear)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (500, 2), (SIZE, SIZE)])
def test_crop__takes_images_of_any_size(size: tuple[int, int]) -> None:
    image = DecodedImage(scene(*size, waves=5))
    assert TrainCrop(image_size=SIZE, min_scale=0.9)(image, seed=0).shape == (3, SIZE, SIZE)
    assert plain(image).shape == (3, SIZE, SIZE)


def test_transforms__take_pixels_that_must_not_be_written() -> None:
    pixels = scene(60, 80, waves=5).copy()
    pixels.flags.writeable = False  # as those of a mapped pack are
    for size in (SIZE, 50, 100):
        TrainCrop(image_size=size, min_scale=0.9)(DecodedImage(pixels), seed=0)
    plain(DecodedImage(pixels))


def test_eval_transform__is_the_resize_of_pillow(image: DecodedImage) -> None:
    resized = PIL.Image.fromarray(image.decoded).resize((30, SIZE), PIL.Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((3, 0, 27, SIZE)))
    assert math.isclose(50 * SIZE / 40, 30)
    assert np.array_equal(plain(image).permute(1, 2, 0).numpy(), expected)


def test_normalize__under_autocast_gives_what_a_convolution_would_make_of_it() -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    normalize = Normalize(Preprocessing(image_size=8), torch.device("cpu"))
    numbers = normalize(images)
    assert numbers.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalize(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, numbers.to(torch.bfloat16))
