"""Images that are decoded quickly have the pixels, and the verdicts, that Pillow gives."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from stages.components.images.decoding import MAX_PIXELS, ImageRejected, open_image
from stages.components.images.lazy_image import DecodedImage, JpegImage, open_lazily, to_image

KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 3},
    "RGB": {"keep_rgb": True},
    "quality 5": {"quality": 5},
    "quality 100": {"quality": 100},
}


def noisy(height: int = 60, width: int = 90) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    return Image.fromarray((np.stack([2 * x, 3 * y, x + y], axis=2) % 196 + noise).astype(np.uint8))


def jpeg_bytes(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def read(path: Path) -> NDArray[np.uint8] | None:
    """Pixels by the quick way, or None where the image is rejected."""
    try:
        image = open_lazily(path)
        pixels = image.pixels()
    except ImageRejected:
        return None
    assert pixels.shape == (*image.size, 3)
    return pixels


def read_by_pillow(path: Path) -> NDArray[np.uint8] | None:
    try:
        return np.asarray(open_image(path))
    except ImageRejected:
        return None


def same(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> bool:
    return one is None if other is None else one is not None and np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(60, 90), (33, 47), (1, 1), (8, 200)])
def test_jpeg__has_the_pixels_that_pillow_gives(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy(*size), **KINDS[kind]))
    image = open_lazily(tmp_path / "a.jpg")
    assert isinstance(image, JpegImage)
    assert image.size == size
    assert np.array_equal(image.pixels(), np.asarray(open_image(tmp_path / "a.jpg")))
    assert to_image(image).tobytes() == open_image(tmp_path / "a.jpg").tobytes()


def test_jpeg__of_grey_has_three_channels(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy().convert("L")))
    image = open_lazily(tmp_path / "a.jpg")
    assert isinstance(image, JpegImage)
    assert np.array_equal(image.pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


def test_jpeg__of_cmyk_is_read_by_pillow(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy().convert("CMYK")))
    image = open_lazily(tmp_path / "a.jpg")
    assert isinstance(image, DecodedImage)
    assert np.array_equal(image.pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


@pytest.mark.parametrize("orientation", range(9))
def test_jpeg__is_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy(), exif=exif))
    image = open_lazily(tmp_path / "a.jpg")
    assert isinstance(image, JpegImage) == (orientation < 2)
    assert image.size == ((90, 60) if orientation >= 5 else (60, 90))
    assert np.array_equal(image.pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


def test_jpeg__is_turned_upright_by_xmp(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy(), xmp=xmp))
    assert open_lazily(tmp_path / "a.jpg").size == (90, 60)
    assert same(read(tmp_path / "a.jpg"), read_by_pillow(tmp_path / "a.jpg"))


@pytest.mark.parametrize("extension", ["png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_open_lazily__reads_other_formats_as_pillow_does(extension: str, tmp_path: Path) -> None:
    noisy().save(tmp_path / f"a.{extension}")
    assert same(read(tmp_path / f"a.{extension}"), read_by_pillow(tmp_path / f"a.{extension}"))


def test_open_lazily__shows_transparency_as_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (open_lazily(tmp_path / "a.png").pixels() == 255).all()


@pytest.mark.parametrize(
    ("scale", "size"),
    [(1.0, (375, 500)), (0.9, (375, 500)), (0.51, (375, 500)), (0.5, (188, 250)), (0.3, (141, 188)), (0.01, (47, 63))],
)
def test_jpeg__is_shrunk_no_further_than_was_asked(scale: float, size: tuple[int, int]) -> None:
    data = jpeg_bytes(noisy(375, 500))
    pixels = JpegImage(data, (375, 500)).pixels(scale=scale)
    assert pixels.shape == (*size, 3)
    assert all(found >= scale * whole for found, whole in zip(size, (375, 500), strict=True))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_jpeg__that_is_cut_is_rejected(tenths: int, options: dict[str, Any], tmp_path: Path) -> None:
    whole = jpeg_bytes(noisy(200, 300), **options)
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * tenths // 10])
    for scale in (1.0, 0.2):
        with pytest.raises(ImageRejected, match="truncated or damaged: "):
            open_lazily(tmp_path / "a.jpg").pixels(scale=scale)


def test_jpeg__with_garbage_behind_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy()) + b"garbage" * 9)
    assert np.array_equal(open_lazily(tmp_path / "a.jpg").pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


def test_jpeg__that_pillow_reads_though_it_is_damaged_is_read(tmp_path: Path) -> None:
    whole = jpeg_bytes(noisy())
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + b"stray" + whole[-2:])
    assert np.array_equal(open_lazily(tmp_path / "a.jpg").pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


@pytest.mark.parametrize("kind", [*KINDS, "grey", "turned", "CMYK"])
def test_jpeg__that_is_damaged_anywhere_gets_the_verdict_and_the_pixels_of_pillow(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    others = {
        "grey": jpeg_bytes(noisy().convert("L")),
        "turned": jpeg_bytes(noisy(), exif=exif),
        "CMYK": jpeg_bytes(noisy().convert("CMYK")),
    }
    whole = others[kind] if kind in others else jpeg_bytes(noisy(), **KINDS[kind])
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(2, len(whole) if random.random() < 0.5 else 700, 2):
            damaged[position] = random.integers(0, 256)
        (tmp_path / "a.jpg").write_bytes(damaged)
        assert same(read(tmp_path / "a.jpg"), read_by_pillow(tmp_path / "a.jpg"))


def test_jpeg__of_too_many_pixels_is_rejected_by_its_header(tmp_path: Path) -> None:
    data = bytearray(jpeg_bytes(noisy()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60_000).to_bytes(2) * 2
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageRejected, match=r"3600\.0 megapixels, more than the limit of 89\.5"):
        open_lazily(tmp_path / "a.jpg")
    assert MAX_PIXELS < 3600e6


def test_open_lazily__rejects_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [(tmp_path / "none.jpg", "missing file"), ("a\0b", "missing file"), (tmp_path, "not a file")]:
        with pytest.raises(ImageRejected, match=reason):
            open_lazily(path)
    with pytest.raises(ImageRejected, match="not a file"):
        open_lazily(tmp_path / "pipe")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ImageRejected, match="truncated or damaged"):
        open_lazily(tmp_path / "a.jpg")


def test_open_lazily__reads_a_large_file_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(noisy()))
    monkeypatch.setattr("stages.components.images.lazy_image.MAX_PIXELS", 1000)
    image = open_lazily(tmp_path / "a.jpg")
    assert isinstance(image, DecodedImage)
    assert np.array_equal(image.pixels(), np.asarray(open_image(tmp_path / "a.jpg")))


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
def test_photographs__have_the_pixels_that_pillow_gives() -> None:
    folder = Path(os.environ["PROTORKD_TEST_DATA"]) / "photos_fullsize" / "images"
    for path in sorted(folder.iterdir()):
        with contextlib.closing(open_image(path)) as image:
            assert np.array_equal(open_lazily(path).pixels(), np.asarray(image))
