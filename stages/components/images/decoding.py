"""Decode image files of many formats by Pillow, as upright RGB: the reference for all quicker decoders."""

import contextlib
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_schemas.regular_files import NotRegularError, open_regular

MAX_PIXELS = 89_478_485
"""Pillow's own limit, 256 MiB of RGB: larger images are refused before they are decoded."""

# Pillow warns of metadata that it cannot parse. Only pixels count here, and `check_size` limits their number.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..+ImagePlugin$")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Each format by the bytes that it begins with. Formats that start other programs (EPS) are not here.
_READERS: dict[tuple[bytes, ...], type[ImageFile]] = {
    (b"\xff\xd8\xff",): JpegImageFile,
    (b"\x89PNG\r\n\x1a\n",): PngImageFile,
    (b"RIFF",): WebPImageFile,
    (b"GIF87a", b"GIF89a"): GifImageFile,
    (b"BM",): BmpImageFile,
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"): TiffImageFile,
    (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"): PpmImageFile,
}


def _find_avif_reader() -> type[ImageFile] | None:
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # Pillow before 11.3
        return None
    return AvifImagePlugin.AvifImageFile if AvifImagePlugin.SUPPORTED else None


_AVIF_READER = _find_avif_reader()
_HEAD_BYTES = 64
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM"  # written into artifacts: the same with every Pillow
# Formats whose two letters also begin texts have more that tells them.
_PPM = re.compile(rb"P[1-6f]\s+(?:#[^\n]*\s+)*\d+\s+\d+\s")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = ("PPM", "PNG")
"""Formats whose samples have at most 16 bits, which Pillow may return in 32."""

_EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")


class ImageRejected(Exception):  # noqa: N818 -- it is a verdict, which loaders count, not an error of the program
    """A file is not a usable image; loaders catch it and count it.

    Args:
        reason: Short sentence; details of the single file follow a colon.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def open_image(path: Path | str) -> Image.Image:
    """Decode an image as 8-bit RGB, turned upright, without metadata.

    Transparent parts show white; 16-bit grey keeps its upper 8 bits, and wider grey is refused; of an animation the
    first frame counts.

    Args:
        path: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM file, or AVIF where Pillow reads it, recognised by its content and
            not by its name.

    Raises:
        ImageRejected: the file is missing, of another format, damaged, or has more than ``MAX_PIXELS``.
    """
    with opened(path) as file:
        return decode_image(file)


@contextlib.contextmanager
def opened(path: Path | str) -> Iterator[BinaryIO]:
    """Open an image file for reading.

    Raises:
        ImageRejected: it is missing, no regular file, or cannot be read.
    """
    if "\0" in str(path):
        raise ImageRejected("missing file")  # no file system has a NUL in a name
    try:
        with open_regular(path or ".") as file:
            yield file
    except (NotRegularError, IsADirectoryError) as error:
        raise ImageRejected("not a file") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageRejected(missing_reason(path)) from error
    except OSError as error:
        raise ImageRejected(f"unreadable file: {error.strerror}") from error


def missing_reason(path: Path | str) -> str:
    """Say that an image file is missing, and whether its path is one of Windows, or there in other characters."""
    name = os.fspath(path)
    if os.sep == "/" and "\\" in name:
        return "missing file: its path has backslashes; write / in their place"
    for form in () if name.isascii() else ("NFC", "NFD"):
        if os.path.exists(unicodedata.normalize(form, name)):  # noqa: PTH110 - a text
            return f"missing file: its name is there in another Unicode form ({form}), as copying from a Mac makes it"
    return "missing file"


def decode_image(file: BinaryIO) -> Image.Image:
    """Decode an open file as `open_image` does.

    Raises:
        ImageRejected: as `open_image`.
    """
    reader = _find_reader(file)
    try:
        # Not Image.open: it warns of large images, and calls a damaged one unidentified.
        decoded = reader(file)
        check_size(height=decoded.height, width=decoded.width)
        decoded.load()
        image = upright_rgb(decoded)
    except (ImageRejected, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageRejected(f"more megapixels than the limit of {MAX_PIXELS / 1e6:.1f}") from error
    except Exception as error:  # on hostile bytes, decoders raise any exception at all
        message = str(error).partition("\n")[0] or type(error).__name__
        raise ImageRejected(f"truncated or damaged: {message}") from error
    image.info.clear()  # or a later reader would find the orientation and turn it again
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded image upright and convert it to 8-bit RGB, as `open_image` does.

    Raises:
        ImageRejected: its colours cannot be converted.
    """
    return _to_rgb(_turn_upright(image), has_16_bits=image.format in _SIXTEEN_BITS)


def check_size(*, height: int, width: int) -> None:
    """Refuse an image that is too large, by the size in its header.

    Raises:
        ImageRejected: it has more than ``MAX_PIXELS``.
    """
    if height * width > MAX_PIXELS:
        megapixels = height * width / 1e6
        raise ImageRejected(f"{megapixels:.1f} megapixels, more than the limit of {MAX_PIXELS / 1e6:.1f}")


def begins_as_image(head: bytes) -> bool:
    """Tell whether a file is an image that can be read, by its first 64 bytes; a text that begins as one is none."""
    if head.startswith(b"BM"):
        return len(head) > 14 and head[6:10] == bytes(4)
    if head[:1] == b"P" and head[1:2] in b"123456f":
        return _PPM.match(head) is not None
    return _reader_of(head) is not None


def is_turned(image: Image.Image) -> bool:
    """Return whether the metadata say that an image has to be turned or mirrored to be upright."""
    return _turn_of(image) is not None


def _find_reader(file: BinaryIO) -> type[ImageFile]:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    reader = _reader_of(head)
    if reader is None:
        what = "HEIC, which is not read" if _brands(head) & _HEIC_BRANDS else f"not a readable image ({_FORMATS})"
        raise ImageRejected(what)
    return reader


def _reader_of(head: bytes) -> type[ImageFile] | None:
    for beginnings, reader in _READERS.items():
        if head.startswith(beginnings) and (reader is not WebPImageFile or head[8:12] == b"WEBP"):
            return reader
    return _AVIF_READER if _brands(head) & _AVIF_BRANDS else None


def _brands(head: bytes) -> set[bytes]:
    """Return the brands that a file of ISO's base media format names: its own, and those it is compatible with."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))}


def _turn_upright(image: Image.Image) -> Image.Image:
    turn = _turn_of(image)
    return image if turn is None else image.transpose(turn)


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # none, or damaged metadata of a sound image
        return None


def _to_rgb(image: Image.Image, *, has_16_bits: bool) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        return _from_wide_samples(np.asarray(image), is_float=image.mode == "F", has_16_bits=has_16_bits)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageRejected(f"colour mode {image.mode}, which has no conversion to RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _from_wide_samples(samples: np.ndarray, *, is_float: bool, has_16_bits: bool) -> Image.Image:
    """Scale 32-bit samples to 8 bits, where they are floats from 0 to 1, or of a 16-bit file that Pillow widens."""
    if not (is_float or has_16_bits):
        raise ImageRejected("integer samples of 32 bits, of unknown scale")
    highest = 1 if is_float else 65535
    if not ((samples >= 0) & (samples <= highest)).all():
        raise ImageRejected(f"{'float' if is_float else 'integer'} samples outside 0 to {highest}, of unknown scale")
    return _from_grey(np.rint(samples * 255) if is_float else samples >> 8)


def _from_grey(samples: np.ndarray) -> Image.Image:
    return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
