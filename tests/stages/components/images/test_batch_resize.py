"""A batch of images of any sizes comes out as each of them does from the crop that readers make."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from host_reads import waits_refused
from numpy.typing import NDArray
from torch import Tensor

from stages.components.images import batch_resize
from stages.components.images.batch_resize import resize_batch
from stages.components.images.lazy_image import DecodedImage
from stages.components.images.transforms import TrainCrop
from stages.components.loading.batch import collate_unsized

SIZE = 24

Pixels = NDArray[np.uint8]


def noise(height: int, width: int) -> Pixels:
    """Black and white pixels: what resizes differ in shows most there."""
    return np.random.default_rng([height, width]).integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


def drawn_sizes(num: int, *, most: int) -> list[tuple[int, int]]:
    """Sizes from one pixel to many, of any ratio of sides."""
    sides = np.exp(np.random.default_rng(0).uniform(0, np.log(most), (num, 2)))
    return [(int(height), int(width)) for height, width in sides]


def resized(images: Sequence[Pixels], *, size: int = SIZE, device: str = "cpu", by: str = "bicubic") -> Tensor:
    batch = collate_unsized(list(enumerate(images)))
    return resize_batch(batch.images.to(device), batch.sizes, size=size, interpolation=by)


def differences(
    images: Sequence[Pixels], *, size: int, min_scale: float = 0.9, by: str = "bicubic"
) -> NDArray[np.int64]:
    """Grey levels between the crops of `TrainCrop` and the same boxes left to the batch."""
    crop = TrainCrop(image_size=size, min_scale=min_scale, interpolation=by)
    decoded = [DecodedImage(image) for image in images]
    expected = torch.stack([crop(image, seed=seed) for seed, image in enumerate(decoded)])
    found = resized([crop.unsized(image, seed=seed) for seed, image in enumerate(decoded)], size=size, by=by)
    assert (found.shape, found.dtype) == (expected.shape, torch.uint8)
    return (found.int() - expected.int()).abs().numpy().astype(np.int64)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("min_scale", [0.9, 0.2])
@pytest.mark.parametrize("size", [SIZE, 64])
def test_batch__is_that_of_the_readers_to_a_grey_level(size: int, min_scale: float, interpolation: str) -> None:
    images = [noise(*sides) for sides in drawn_sizes(80, most=250)]
    found = differences(images, size=size, min_scale=min_scale, by=interpolation)
    assert found.max() <= 1
    assert found.mean() < 0.2


@pytest.mark.parametrize("factor", [0.5, 0.99, 1.0, 1.01, 1.59, 1.6, 1.61, 3.9])
def test_batch__is_that_of_the_readers_at_every_way_of_resizing(factor: float) -> None:
    side = round(factor * 100)
    images = [noise(side, side), noise(side, side * 3 // 4), noise(side * 3 // 4, side), noise(side, side + 1)]
    assert differences(images, size=100, min_scale=0.999).max() <= 1


@pytest.mark.parametrize("sides", [(1, 1), (1, 90), (90, 1), (2, 2), (2, 3), (1, 2), (3, 90), (SIZE, SIZE)])
def test_batch__takes_images_of_a_few_pixels(sides: tuple[int, int]) -> None:
    assert differences([noise(*sides)], size=SIZE).max() <= 1


def test_batch__leaves_images_of_its_size_as_they_are() -> None:
    images = [noise(SIZE, SIZE), noise(SIZE, SIZE)[::-1]]
    assert np.array_equal(resized(images).permute(0, 2, 3, 1).numpy(), np.stack(images))


def test_batch__is_constant_where_an_image_is() -> None:
    images = [np.full((height, width, 3), 201, np.uint8) for height, width in drawn_sizes(40, most=200)]
    assert (resized(images) == 201).all()


def test_batch__reads_no_pixel_of_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [noise(*sides) for sides in drawn_sizes(40, most=120)]
    together = resized(images)
    for number, image in enumerate(images):
        assert torch.equal(together[number], resized([image])[0])
    assert torch.equal(resized(images[::-1]).flip(0), together)
    for most in (1, 3000):  # pixels at a time: one image, or some
        monkeypatch.setattr(batch_resize, "_PIXELS_CPU", most)
        assert torch.equal(resized(images), together)


def test_batch__may_be_empty() -> None:
    assert resized([]).shape == (0, 3, SIZE, SIZE)


def test_batch__is_launched_by_sizes_alone() -> None:
    images = [noise(*sides) for sides in drawn_sizes(20, most=200)]
    # a tensor of this kind has a shape and no content: to ask for that is an error
    found = resized(images, device="meta")
    assert found.shape == (20, 3, SIZE, SIZE)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_unsized__resizes_at_once_what_would_be_large_on_its_way() -> None:
    crop = TrainCrop(image_size=SIZE, min_scale=0.999)
    just, more = (DecodedImage(noise(side, side)) for side in (4 * SIZE, 4 * SIZE + 1))
    assert max(crop.unsized(just, seed=0).shape) > SIZE
    large = crop.unsized(more, seed=0)
    assert np.array_equal(large, crop(more, seed=0).permute(1, 2, 0).numpy())
    middle = TrainCrop(image_size=SIZE, min_scale=0)
    assert np.array_equal(middle.unsized(just, seed=0), middle(just, seed=0).permute(1, 2, 0).numpy())


@pytest.mark.gpu
@pytest.mark.parametrize("size", [SIZE, 224])
def test_batch__on_a_gpu_is_that_of_the_cpu_to_a_grey_level(size: int) -> None:
    images = [noise(*sides) for sides in drawn_sizes(200, most=400)]
    assert (resized(images, size=size).int() - resized(images, size=size, device="cuda").cpu().int()).abs().max() <= 1


@pytest.mark.gpu
def test_batch__does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate_unsized([(number, noise(*sides)) for number, sides in enumerate(drawn_sizes(200, most=400))])
    pixels = batch.images.to("cuda")
    monkeypatch.setattr(batch_resize, "_PIXELS_GPU", 1 << 16)  # several groups
    for context in (nullcontext(), waits_refused()):  # the first time, memory is still to be found
        with context:
            resize_batch(pixels, batch.sizes, size=64, interpolation="bicubic")
