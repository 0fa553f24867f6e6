import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.components.images.image_set import ImageSet
from stages.components.report.even_sample import choose_queries
from stages.components.report.thumbnails import Thumbnails, stand_in, thumbnail, thumbnail_or_stand_in

MAGENTA = (255, 0, 255)


@pytest.mark.parametrize(
    ("num", "total", "chosen"), [(4, 2000, [250, 750, 1250, 1750]), (3, 3, [0, 1, 2]), (12, 2, [0, 1]), (5, 0, [])]
)
def test_choose_queries__spreads_them_evenly(num: int, total: int, chosen: list[int]) -> None:
    assert choose_queries(num, total) == chosen


@pytest.mark.parametrize("seed", range(5))
def test_choose_queries__takes_one_from_each_stretch(seed: int) -> None:
    assert [row // 100 for row in choose_queries(12, 1200, seed=seed)] == list(range(12))
    assert choose_queries(12, 1200, seed=seed) == choose_queries(12, 1200, seed=seed)


def decode(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize(
    ("before", "after"), [((400, 200), (96, 48)), ((10, 400), (2, 96)), ((30, 20), (30, 20)), ((4000, 1), (96, 1))]
)
def test_thumbnail__fits_the_size_and_keeps_the_shape(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = Image.new("RGB", before)
    assert decode(thumbnail(image)).size == after
    assert image.size == before  # the caller's image stays whole


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_thumbnail__takes_any_mode(mode: str) -> None:
    assert decode(thumbnail(Image.new(mode, (8, 8)))).mode == "RGB"


def test_thumbnail__shows_white_where_the_image_is_transparent() -> None:
    assert decode(thumbnail(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))).getpixel((4, 4)) == (255, 255, 255)


def test_thumbnail__depends_on_the_pixels_alone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), MAGENTA).save(tmp_path / "plain.png")
    with Image.open(tmp_path / "plain.png") as plain:
        plain.info["comment"] = b"<script>"
        assert thumbnail(plain) == thumbnail(tmp_path / "plain.png") == thumbnail(Image.new("RGB", (8, 8), MAGENTA))


def test_thumbnails__number_the_readable_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), MAGENTA).save(tmp_path / "c.png")
    images = Thumbnails(ImageSet(root=tmp_path, paths=["a.png", "b.png", "c.png"]), torch.tensor([0, 2]))
    assert images.path(1) == "c.png"
    assert images.image(1) == thumbnail(tmp_path / "c.png")


def test_thumbnails__are_made_once(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), MAGENTA).save(tmp_path / "a.png")
    images = Thumbnails(ImageSet(root=tmp_path, paths=["a.png"]), torch.tensor([0]))
    made = images.image(0)
    (tmp_path / "a.png").unlink()
    assert images.image(0) == made


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_thumbnails__stand_in_for_images_that_vanished(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    assert thumbnail_or_stand_in(ImageSet(root=tmp_path, paths=["a.png"]), 0) == stand_in()
    red, green, blue = decode(stand_in()).getpixel((4, 4))
    assert max(red, green, blue) - min(red, green, blue) < 10  # grey


def test_thumbnails__are_no_larger_than_the_page_shows_them(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 500)).save(tmp_path / "a.png")
    assert decode(thumbnail_or_stand_in(ImageSet(root=tmp_path, paths=["a.png"]), 0)).size == (160, 80)
