import contextlib
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from stages.components.images.decoding import MAX_PIXELS, ImageRejected, begins_as_image, open_image
from stages.components.images.lazy_image import open_lazily

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def reason_for(path):
    with pytest.raises(ImageRejected) as caught:
        open_image(path)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def corners(width=6, height=4):
    """Left upper pixel red, right upper green, left lower blue, the rest white."""
    image = Image.new("RGB", (width, height), WHITE)
    image.putpixel((0, 0), RED)
    image.putpixel((width - 1, 0), GREEN)
    image.putpixel((0, height - 1), BLUE)
    return image


def noise(size=(64, 48), mode="RGB", seed=0):
    shape = (size[1], size[0], len(Image.new(mode, (1, 1)).getbands()))
    samples = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.frombytes(mode, size, samples.tobytes())


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "ppm", "webp"])
def test_open_image__keeps_the_pixels_of_lossless_formats(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    noise().save(path, **({"lossless": True} if extension == "webp" else {}))
    image = open_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(noise()))


def test_open_image__takes_a_name_as_text_and_ignores_its_extension(tmp_path):
    corners().save(tmp_path / "a.txt", format="PNG")
    assert open_image(str(tmp_path / "a.txt")).getpixel((0, 0)) == RED


def test_open_image__gives_an_image_that_outlives_its_file(tmp_path):
    corners().save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert image.getpixel((5, 0)) == GREEN
    assert type(image) is Image.Image


# Orientation by the EXIF standard: where the stored first row and first column lie in the upright image.
@pytest.mark.parametrize(
    ("orientation", "size", "red", "green"),
    [
        (1, (6, 4), (0, 0), (5, 0)),
        (2, (6, 4), (5, 0), (0, 0)),
        (3, (6, 4), (5, 3), (0, 3)),
        (4, (6, 4), (0, 3), (5, 3)),
        (5, (4, 6), (0, 0), (0, 5)),
        (6, (4, 6), (3, 0), (3, 5)),
        (7, (4, 6), (3, 5), (3, 0)),
        (8, (4, 6), (0, 5), (0, 0)),
    ],
)
@pytest.mark.parametrize(("extension", "options"), [("png", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"})])
def test_open_image__turns_upright(tmp_path, orientation, size, red, green, extension, options):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{extension}"
    corners().save(path, exif=exif, **options)
    image = open_image(path)
    assert image.size == size
    assert image.getpixel(red) == RED
    assert image.getpixel(green) == GREEN
    assert ExifTags.Base.Orientation not in image.getexif()


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_open_image__turns_a_lossy_image_upright(tmp_path, name):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.new("RGB", (32, 16), "black")
    stored.paste("white", (0, 0, 16, 16))
    stored.save(tmp_path / name, exif=exif)
    image = open_image(tmp_path / name)
    assert image.size == (16, 32)
    assert image.getpixel((8, 4)) == WHITE
    assert image.getpixel((8, 28)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_open_image__passes_over_an_orientation_that_does_not_exist(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    corners().save(tmp_path / "a.png", exif=exif)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == RED


def test_open_image__opens_an_image_with_damaged_metadata_without_a_warning(tmp_path):
    good = tmp_path / "good.jpg"
    Image.new("RGB", (8, 8), "white").save(good)
    body = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 3
    marker = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8" + marker + good.read_bytes()[20:])  # in place of the JFIF header
    # A new process, since pytest sets its own warning filters before ours.
    command = f"from stages.components.images.decoding import open_image; print(open_image({str(damaged)!r}).size)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", command], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("(8, 8)\n", "")


def test_open_image__shows_transparency_as_white(tmp_path):
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 0), (255, 0, 0, 255), (255, 0, 0, 51)])
    rgba.save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in range(3)] == [WHITE, RED, (255, 204, 204)]


def test_open_image__shows_transparent_grey_as_white(tmp_path):
    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 0), (10, 255)])
    grey.save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in range(2)] == [WHITE, (10, 10, 10)]


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_open_image__shows_a_transparent_palette_entry_as_white(tmp_path, extension):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    palette.save(tmp_path / f"a.{extension}", transparency=0)
    image = open_image(tmp_path / f"a.{extension}")
    assert [image.getpixel((x, 0)) for x in range(2)] == [WHITE, BLUE]


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_open_image__shows_a_transparent_colour_as_white(tmp_path, mode, key):
    Image.new(mode, (2, 2), key).save(tmp_path / "a.png", transparency=key)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == WHITE


def test_open_image__shows_partly_transparent_palettes(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putdata([0, 1])
    palette.save(tmp_path / "a.png", transparency=bytes([51, 255]))
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 204, 204)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_open_image__widens_grey_and_palettes(tmp_path, mode):
    corners().convert(mode).save(tmp_path / "a.png")
    expected = corners().convert(mode).convert("RGB")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(expected))


def test_open_image__converts_cmyk_jpeg(tmp_path):
    Image.new("RGB", (16, 16), (200, 40, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    image = open_image(tmp_path / "a.jpg")
    assert np.allclose(image.getpixel((8, 8)), (200, 40, 60), atol=4)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_open_image__converts_cmyk_tiff(tmp_path, compression):
    image = Image.new("RGB", (16, 16), (200, 40, 60)).convert("CMYK")
    image.save(tmp_path / "a.tiff", compression=compression, **({"quality": 95} if compression == "jpeg" else {}))
    assert np.allclose(open_image(tmp_path / "a.tiff").getpixel((8, 8)), (200, 40, 60), atol=4)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_open_image__keeps_the_ramp_of_16_bit_grey(tmp_path, name):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes())
    else:
        Image.fromarray(ramp).save(tmp_path / name)
    pixels = np.asarray(open_image(tmp_path / name))
    assert np.array_equal(pixels[:, :, 0].ravel(), np.arange(256))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize(("colour_type", "num_bands"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "grey, alpha"])
def test_open_image__keeps_the_upper_bits_of_16_bit_colours_in_png(tmp_path, colour_type, num_bands):
    values = (np.arange(256, dtype=np.uint16) * 257).repeat(num_bands).reshape(16, 16, num_bands)
    if num_bands % 2 == 0:
        values[..., -1] = 65535  # opaque
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png"))[:, :, 0].ravel(), np.arange(256))


def test_open_image__keeps_the_upper_bits_of_16_bit_colours_in_ppm(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).repeat(3).reshape(16, 16, 3)
    (tmp_path / "a.ppm").write_bytes(b"P6 16 16 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.ppm"))[:, :, 0].ravel(), np.arange(256))


def test_open_image__scales_float_samples_from_0_to_1(tmp_path):
    Image.fromarray(np.array([[0.0, 0.2, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("sample", [1.5, 255.0, -0.1, float("nan"), float("inf")])
def test_open_image__rejects_float_samples_without_a_scale(tmp_path, sample):
    Image.fromarray(np.array([[0.5, sample]], np.float32)).save(tmp_path / "a.tiff")
    assert reason_for(tmp_path / "a.tiff") == "float samples outside 0 to 1, of unknown scale"


@pytest.mark.parametrize("sample", [-1, 0, 255, 65535, 65536])
def test_open_image__rejects_integer_samples_without_a_scale(tmp_path, sample):
    Image.fromarray(np.array([[5, sample]], np.int32)).save(tmp_path / "a.tiff")
    assert reason_for(tmp_path / "a.tiff") == "integer samples of 32 bits, of unknown scale"


def test_open_image__rejects_a_colour_mode_without_rgb(tmp_path):
    Image.new("LAB", (2, 2)).save(tmp_path / "a.tiff")
    assert reason_for(tmp_path / "a.tiff") == "colour mode LAB, which has no conversion to RGB"


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tiff"])
def test_open_image__takes_the_first_frame_of_an_animation(tmp_path, extension):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if extension == "webp" else {}
    frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **options)
    image = open_image(tmp_path / f"a.{extension}")
    assert image.size == (8, 8)
    assert image.getpixel((4, 4)) == RED


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif"])
def test_open_image__rejects_files_that_end_at_each_tenth(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    noise().save(path)
    whole = path.read_bytes()
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert reason_for(path).startswith("truncated or damaged: "), share
        with pytest.raises(ImageRejected):
            open_lazily(path).pixels()


def test_open_image__rejects_a_truncated_progressive_jpeg(tmp_path):
    noise((256, 256)).save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    assert reason_for(tmp_path / "a.jpg").startswith("truncated or damaged: ")


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif"])
def test_open_image__opens_or_rejects_damaged_files_and_does_nothing_else(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    noise((16, 16)).save(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(0, min(len(whole), 200), 3):
            damaged[position] = random.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(ImageRejected):
            assert open_image(path).mode == "RGB"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"hello, world, this is no image",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"<!DOCTYPE html><html></html>",
    ],
    ids=["empty", "one byte", "text", "svg", "eps", "wav", "html"],
)
def test_open_image__rejects_what_is_no_image(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason_for(tmp_path / "a.jpg") == "not a readable image (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)"


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_open_image__rejects_every_format_of_pillow_that_is_not_on_the_list(tmp_path):
    Image.init()
    num_refused, num_read = 0, 0
    for format_name in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1", "P"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # it cannot write this mode, or nothing at all
                corners().convert(mode).save(tmp_path / "a", format=format_name)
                break
        else:
            continue
        if format_name in ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"):  # MPO: JPEGs in a row
            assert open_image(tmp_path / "a").size == (6, 4), format_name
            num_read += 1
        else:
            assert reason_for(tmp_path / "a").startswith("not a readable image"), format_name
            num_refused += 1
    assert num_read == 9
    assert num_refused > 10


def test_open_image__rejects_what_is_not_there(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert reason_for(tmp_path / "none.jpg") == "missing file"
    assert reason_for(tmp_path / "file" / "none.jpg") == "missing file"
    assert reason_for("a\0b.jpg") == "missing file"


def test_open_image__rejects_a_path_that_no_file_system_takes(tmp_path):
    assert reason_for(tmp_path / ("a" * 300)).startswith("unreadable file: ")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert reason_for(tmp_path / "loop").startswith("unreadable file: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_open_image__rejects_a_file_without_permission(tmp_path):
    corners().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert reason_for(tmp_path / "a.png") == "unreadable file: Permission denied"


def test_open_image__rejects_folders_and_pipes_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert reason_for(tmp_path) == "not a file"
    assert reason_for(tmp_path / "pipe") == "not a file"
    assert reason_for("") == "not a file"


@pytest.mark.parametrize(("width", "height", "size"), [(10_000, 10_000, "100.0"), (20_000, 10_000, "200.0")])
def test_open_image__rejects_bombs_by_their_header(tmp_path, width, height, size):
    reason = f"{size} megapixels, more than the limit of 89.5"
    (tmp_path / "a.png").write_bytes(png_with_header(width, height))
    (tmp_path / "a.ppm").write_bytes(b"P6 %d %d 255\n" % (width, height))
    assert reason_for(tmp_path / "a.png") == reason
    assert reason_for(tmp_path / "a.ppm") == reason


def with_size(data, width, height, *, at, form):
    return data[:at] + struct.pack(form, width, height) + data[at + struct.calcsize(form) :]


def test_open_image__rejects_bombs_of_formats_that_cannot_be_so_large_by_chance(tmp_path):
    for extension, at, form, width in (
        ("bmp", 18, "<II", 20_000),
        ("gif", 6, "<HH", 65_535),
        ("gif", 6, "<HH", 20_000),
    ):
        path = tmp_path / f"a.{extension}"
        corners().save(path)
        path.write_bytes(with_size(path.read_bytes(), width, width, at=at, form=form))
        assert "more than the limit of 89.5" in reason_for(path)
    corners().save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    start = data.index(b"\xff\xc0") + 5  # height and width follow length and depth
    (tmp_path / "a.jpg").write_bytes(with_size(data, 20_000, 20_000, at=start, form=">HH"))
    assert "more than the limit of 89.5" in reason_for(tmp_path / "a.jpg")
    with pytest.raises(ImageRejected, match=r"more than the limit of 89\.5"):
        open_lazily(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_open_image__unpacks_no_bomb_in_metadata(tmp_path, kind):
    corners().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    bomb = chunk(kind, b"name\0\0" + zlib.compress(bytes(1 << 26), 1))
    (tmp_path / "a.png").write_bytes(data[:33] + bomb + data[33:])  # behind the header
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ImageRejected):
        assert open_image(tmp_path / "a.png").size == (6, 4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KB


def test_open_image__holds_its_limit_at_the_pixel(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 %d 1 255\n" % (MAX_PIXELS + 1))
    assert "megapixels" in reason_for(tmp_path / "a.ppm")
    (tmp_path / "a.png").write_bytes(png_with_header(2, MAX_PIXELS // 2))
    assert reason_for(tmp_path / "a.png").startswith("truncated or damaged: ")


def test_open_image__rejects_a_bomb_that_pillow_itself_stops(tmp_path):
    canvas = (15_999).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert reason_for(tmp_path / "a.webp") == "more megapixels than the limit of 89.5"


def test_image_rejected__survives_the_way_out_of_a_worker_process():
    assert pickle.loads(pickle.dumps(ImageRejected("missing file"))).reason == "missing file"


@pytest.mark.real_data
@pytest.mark.skipif("PROTORKD_TEST_DATA" not in os.environ, reason="PROTORKD_TEST_DATA is not set")
def test_open_image__opens_every_full_size_photo():
    folder = Path(os.environ["PROTORKD_TEST_DATA"]) / "photos_fullsize" / "images"
    paths = sorted(folder.iterdir())[:20]
    assert len(paths) == 20
    assert all(min(open_image(path).size) > 50 for path in paths)


def test_open_image__reads_avif_by_its_content_and_turns_it_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = Image.new("RGB", (32, 16), "black")
    stored.paste("white", (0, 0, 16, 16))
    stored.save(tmp_path / "a.avif", exif=exif, quality=100)
    (tmp_path / "a.avif").rename(tmp_path / "a.jpg")
    image = open_image(tmp_path / "a.jpg")
    assert image.size == (16, 32)
    assert min(image.getpixel((8, 4))) > 250
    assert max(image.getpixel((8, 28))) < 5


def test_open_image__names_heic(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40))
    assert reason_for(tmp_path / "a.jpg") == "HEIC, which is not read"


@pytest.mark.parametrize(
    "text", [b"BMW, a car, and what follows", b"P1 is the first", b"P5\n", b"P3 # of 4 7", b"", b"II"]
)
def test_begins_as_image__takes_no_text_for_an_image(text):
    assert not begins_as_image(text)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "1"])
def test_begins_as_image__knows_what_is_read(kind, mode):
    buffer = io.BytesIO()
    corners().convert(mode).convert("RGB" if kind in ("AVIF", "JPEG", "WEBP") else mode).save(buffer, kind)
    assert begins_as_image(buffer.getvalue()[:64])


def test_open_image__says_that_a_missing_path_has_backslashes(tmp_path):
    assert reason_for(tmp_path / "images\\0.jpg") == "missing file: its path has backslashes; write / in their place"


@pytest.mark.parametrize(("there", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_open_image__says_that_a_missing_name_is_there_in_another_form(tmp_path, there, asked):
    name = tmp_path / "caf\u00e9.jpg"
    path = Path(unicodedata.normalize(asked, str(name)))
    assert reason_for(path) == "missing file"
    Path(unicodedata.normalize(there, str(name))).write_bytes(b"")
    if path.exists():
        pytest.skip("one name in this file system")
    assert reason_for(path).startswith(f"missing file: its name is there in another Unicode form ({there})")
    assert reason_for(tmp_path / "0.jpg") == "missing file"
