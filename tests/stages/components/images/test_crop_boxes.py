"""Boxes are functions of an image's size and of the seed."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from stages.components.images.crop_boxes import Box, draw_box


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (256, 256)])
def test_box__is_drawn_as_by_torchvision(size: tuple[int, int]) -> None:
    num = 2000
    boxes = [draw_box(size, min_scale=0.5, seed=seed) for seed in range(num)]
    ours = np.array([[box.top, box.left, box.height, box.width] for box in boxes])
    crop = v2.RandomResizedCrop(24, (0.5, 1.0))
    torch.manual_seed(0)
    drawn = [crop.make_params([torch.empty(3, *size)]) for _ in range(num)]
    theirs = np.array([[each[name] for name in ("top", "left", "height", "width")] for each in drawn])
    assert (ours >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    deviation = theirs.std(axis=0)
    # the standard error of a difference of two means is a 32nd of the deviation here
    np.testing.assert_array_less(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)), deviation / 8)
    np.testing.assert_allclose(ours.std(axis=0), deviation, rtol=0.1)


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 100), Box(0, 43, 10, 13)), ((100, 10), Box(43, 0, 13, 10)), ((1, 1), Box(0, 0, 1, 1))],
)
def test_box__is_the_middle_where_no_draw_fits(size: tuple[int, int], box: Box) -> None:
    assert {draw_box(size, min_scale=0.9, seed=seed) for seed in range(20)} == {box}


def test_box__fits_an_image_that_was_shrunk() -> None:
    pixels = np.arange(3 * 30 * 40, dtype=np.int64).reshape(30, 40, 3).astype(np.uint8)
    assert Box(0, 0, 60, 80).cut(pixels, (60, 80)).shape == (30, 40, 3)
    assert Box(10, 20, 31, 41).cut(pixels, (60, 80)).base is not None  # no copy
    assert np.array_equal(Box(10, 20, 30, 40).cut(pixels, (60, 80)), pixels[5:20, 10:30])
    assert Box(10, 20, 1, 1).cut(pixels[:8, :10], (60, 80)).shape == (1, 1, 3)
