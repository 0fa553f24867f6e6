"""Hostile images and manifests by the hundred thousand: each is read, or refused with a reason; nothing else happens.

``python -m tests.support.fuzz --inputs 100000``: half of them images of every format, damaged at random, half of
them texts that manifests are made of at their worst. A reader that raises anything but a verdict, takes longer than ten
seconds, or ends the process, is reported with the number that makes the same input again.
"""

import argparse
import io
import multiprocessing
import random
import signal
import struct
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from PIL import Image

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.text.manifest_table import read_manifest
from stages.components.images.decoding import ImageRejected
from stages.components.images.lazy_image import open_lazily

TIMEOUT_S = 10
_BATCH = 500  # inputs of one process: its leaks and damage end with it

_PIECES = (
    "a dog", "a\tdog", '"quoted"', '"open', 'end"', '""', '"a ""b"" c"', "\t", "\t\t", "\n", "\r\n", "\r", "\0", "",
    " ", "null", "NA", "12", "=1+1", "-", "x" * 5000, "\ufeff", "\u2028", "\x85", "é", "日本語", "🙂", "\ud800",
    "a.jpg", "../a.jpg", "/etc/passwd", "C:\\a.jpg", "a\tb\tc\td", ",", ";", "|", "\x1f", "\x0b", "\x0c", "'",
)  # fmt: skip


def images() -> list[bytes]:
    """Encode small sound images in every format that is read, and some that must not be read."""
    draw = np.random.default_rng(0)
    smooth = Image.fromarray(draw.integers(0, 256, (5, 7, 3), np.uint8)).resize((41, 31))
    grey, alpha = smooth.convert("L"), smooth.copy()
    alpha.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(draw.integers(0, 65536, (31, 41), np.uint16))
    frames = {"save_all": True, "append_images": [smooth.rotate(90), smooth]}
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (smooth, "JPEG", {}),
        (smooth, "JPEG", {"progressive": True, "quality": 30}),
        (smooth, "JPEG", {"exif": exif.tobytes()}),
        (smooth, "JPEG", {"subsampling": 0, "comment": b"hello"}),
        (grey, "JPEG", {}),
        (smooth.convert("CMYK"), "JPEG", {}),
        (smooth, "PNG", {}),
        (alpha, "PNG", {}),
        (smooth.convert("P"), "PNG", {"transparency": 3}),
        (wide, "PNG", {}),
        (smooth, "PNG", frames),
        (smooth, "WEBP", {}),
        (alpha, "WEBP", {"lossless": True}),
        (smooth, "WEBP", frames),
        (smooth, "GIF", {}),
        (smooth.convert("P"), "GIF", frames),
        (smooth, "BMP", {}),
        (grey, "BMP", {}),
        (smooth, "TIFF", {}),
        (smooth, "TIFF", {"compression": "tiff_lzw"}),
        (wide, "TIFF", {}),
        (smooth.convert("CMYK"), "TIFF", {"compression": "jpeg"}),
        (smooth, "PPM", {}),
        (grey, "PPM", {}),
        (smooth, "EPS", {}),
        (smooth, "PDF", {}),
        (smooth, "ICO", {}),
        (smooth, "TGA", {}),
    ]
    encoded = []
    for image, format_name, options in kinds:
        data = io.BytesIO()
        image.save(data, format_name, **options)
        encoded.append(data.getvalue())
    return [*encoded, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b""]


def damaged(data: bytes, draw: random.Random, *, others: list[bytes]) -> bytes:
    """Do one to four of the things that disks, networks and enemies do to a file."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed) + 1)
        match draw.randrange(7):
            case 0:
                for _ in range(draw.randint(1, 8)):
                    if changed:
                        changed[draw.randrange(len(changed))] = draw.randrange(256)
            case 1:
                del changed[place:]
            case 2:
                del changed[place : place + draw.randint(1, 64)]
            case 3:
                changed[place:place] = draw.randbytes(draw.randint(1, 64))
            case 4:
                other = draw.choice(others)
                changed[place:] = other[draw.randrange(len(other) + 1) :]
            case 5:
                number = draw.choice([0, 1, 2**16, 2**31, 2**32 - 1])
                changed[place : place + 4] = struct.pack(draw.choice(["<I", ">I"]), number)
            case 6:
                changed[place : place + 2] = struct.pack(draw.choice(["<H", ">H"]), draw.choice([0, 0xFFFF, 0x7FFF]))
    return bytes(changed)


def manifest(draw: random.Random) -> bytes:
    """Make a text that resembles a manifest, in one encoding or another."""
    others = ["title\tfilepath\tx", '"filepath"\t"title"', "filepath,title", "", "x\ty"]
    header = draw.choice(others) if draw.random() < 0.3 else "filepath\ttitle"
    lines = [header]
    for _ in range(draw.randint(0, 12)):
        lines.append("".join(draw.choice(_PIECES) for _ in range(draw.randint(0, 5))))
        if draw.random() < 0.7:
            lines[-1] = f"{len(lines)}.jpg\ta dog {draw.choice(_PIECES)}"
    text = draw.choice(["\n", "\r\n", "\r", "\n\n"]).join(lines)
    encoding = draw.choice([*["utf-8"] * 8, "utf-8-sig", "utf-16", "latin-1", "cp1252"])
    data = text.encode(encoding, errors="surrogatepass" if "utf" in encoding else "replace")
    return damaged(data, draw, others=[b"\0\0", b"\xff\xfe"]) if draw.random() < 0.3 else data


def read_image(path: Path) -> str:
    """Read an image whole, and check what holds for every image."""
    try:
        image = open_lazily(path)
        pixels = image.pixels()
    except ImageRejected as error:
        return error.reason.partition(":")[0]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*image.size, 3)
    return "read"


def read_pairs(path: Path) -> str:
    """Read a manifest, and check that no row is lost."""
    try:
        found = read_manifest(path, max_bad_fraction=1.0)
    except ProtoRKDError as error:
        return "refused" if str(path) in str(error) else f"refused without its name: {error}"
    lines = [*found.table["row"].to_pylist(), *(rejection.row for rejection in found.rejections)]
    assert len(lines) == len(set(lines))
    return "read"


def fuzz(numbers: range, *, seed: int, folder: Path) -> Counter[str]:
    """Make and read inputs by their numbers, and count the outcomes."""
    counts: Counter[str] = Counter()
    sound, path = images(), folder / "input"
    for number in numbers:
        draw = random.Random(f"{seed} {number}")
        if number % 2:
            data, kind, read = damaged(draw.choice(sound), draw, others=sound), "image", read_image
        else:
            data, kind, read = manifest(draw), "manifest", read_pairs
        path.write_bytes(data)
        signal.alarm(TIMEOUT_S)  # ends the process, whatever a decoder is at
        try:
            counts[f"{kind} {read(path)}"] += 1
        except BaseException as error:
            raise RuntimeError(f"input {number}: {error!r}") from error
        signal.alarm(0)
    return counts


def main() -> None:
    """Fuzz in processes of some hundred inputs each; end with status 1 where one of them ended otherwise than asked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="In all.")
    parser.add_argument("--seed", type=int, default=0, help="Of the inputs.")
    options = parser.parse_args()
    failures, totals = [], Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, options.inputs, _BATCH):
            numbers = range(first, min(first + _BATCH, options.inputs))
            try:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
                    totals += pool.submit(fuzz, numbers, seed=options.seed, folder=Path(folder)).result()
            except (RuntimeError, BrokenProcessPool) as error:
                failures.append(f"{numbers}: {error}")
    for outcome, num in sorted(totals.items()):
        sys.stdout.write(f"{num:8,}  {outcome}\n")
    sys.stdout.writelines(f"FAILED {failure}\n" for failure in failures)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
