"""Text files of any size, mapped as bytes: open, unpack, check, and count lines."""

import tempfile
from mmap import ACCESS_READ, mmap
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import check_regular, open_regular

BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 23

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Compression of a file, by the last suffix of its name."""

_MAX_RATIO = 200  # text shrinks to a tenth; what grows more is meant to fill the disk
_ALWAYS_FITS = 1 << 26
_HEAD_BYTES = 1 << 20
_LOOK_BYTES = 1 << 10
_MOSTLY = 0.7  # share of NUL bytes in one of two bytes that makes a text UTF-16


def open_text(path: Path) -> mmap:
    """Map a file of UTF-8 text into memory; one whose name ends in a suffix of `COMPRESSIONS` is unpacked.

    Raises:
        ProtoRKDError: it is absent, empty or no file, cannot be read or unpacked, is not UTF-8 or holds a NUL byte.
    """
    try:
        check_regular(path)
        if path.stat().st_size == 0:
            raise ProtoRKDError(f"{path} must have a header and rows; got an empty file. Check the path.")
        data = _unpack(path) if path.suffix.lower() in COMPRESSIONS else _map(path)
    except OSError as error:
        raise ProtoRKDError(f"{path} must be readable; got {error.strerror}. Check its permissions.") from error
    _check_text(data, path)
    return data


def first_line(path: Path) -> bytes:
    """Read the first line, up to a mebibyte, without looking at the rest.

    Raises:
        ProtoRKDError: as `first_lines`.
    """
    head = first_lines(path)
    return head[: head.find(b"\n") + 1 or None]


def first_lines(path: Path) -> bytes:
    """Read the whole lines of the first mebibyte, without looking at the rest.

    Raises:
        ProtoRKDError: the file is absent, or cannot be read or unpacked.
    """
    import pyarrow as pa  # keeps pyarrow out of --help

    from data_schemas.records.opened import open_bytes

    codec = COMPRESSIONS.get(path.suffix.lower())
    with open_bytes(path) as file:
        try:
            head: bytes = (pa.CompressedInputStream(file, codec) if codec else file).read(_HEAD_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise ProtoRKDError(f"{path} must be readable; {error}. Is it whole?") from error
    return head if len(head) < _HEAD_BYTES else head[: head.rfind(b"\n") + 1 or None]


def _map(path: Path) -> mmap:
    with open_regular(path) as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _unpack(path: Path) -> mmap:
    """Unpack into a nameless temporary file, which disappears with its map."""
    import pyarrow as pa  # keeps pyarrow out of --help

    from data_schemas.records.opened import open_bytes

    most = max(_ALWAYS_FITS, _MAX_RATIO * path.stat().st_size)
    with open_bytes(path) as packed, tempfile.TemporaryFile() as file:
        try:
            stream = pa.CompressedInputStream(packed, COMPRESSIONS[path.suffix.lower()])
            while block := stream.read(BLOCK_BYTES):
                if file.tell() + len(block) > most:
                    raise ProtoRKDError(
                        f"{path} must unpack to at most {_MAX_RATIO} times its size; it holds more. "
                        "Unpack it yourself if it is sound."
                    )
                file.write(block)
        except (OSError, pa.ArrowException) as error:
            raise ProtoRKDError(f"{path} must unpack as its name says; {error}. Is it whole?") from error
        if not file.tell():
            raise ProtoRKDError(f"{path} must have a header and rows; got an empty file. Check the path.")
        file.flush()
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _check_text(data: mmap, path: Path) -> None:
    """Refuse text that is not UTF-8, and NUL bytes, which mark a binary or damaged file."""
    if wide := _wide_encoding(data[:_LOOK_BYTES]):
        raise ProtoRKDError(
            f"{path} must be UTF-8 text; got {wide}. Save it as UTF-8, for instance with iconv -f {wide} -t UTF-8."
        )
    start = 0
    while start < len(data):
        end = line_end(data, start + BLOCK_BYTES)
        block = data[start:end]
        try:
            block.decode()
        except UnicodeDecodeError as error:
            where = f"line {line_number(data, start + error.start)}, byte offset {start + error.start}"
            raise ProtoRKDError(
                f"{path} must be UTF-8 text; got byte {block[error.start]:#04x} at {where}. "
                "Save it as UTF-8, for instance with iconv -f latin1 -t utf-8."
            ) from None
        if b"\0" in block:
            offset = start + block.index(b"\0")
            raise ProtoRKDError(
                f"{path} must be text; got a NUL byte at line {line_number(data, offset)}, byte offset {offset}. "
                "Mend that line."
            )
        start = end


def _wide_encoding(head: bytes) -> str:
    """Name the encoding of more than a byte a letter that a text is in, by its mark or its NUL bytes; "" if none."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    halves = head[0::2], head[1::2]
    shares = [half.count(0) / len(half) if half else 0.0 for half in halves]
    if min(shares) == 0 and max(shares) > _MOSTLY:
        return "UTF-16LE" if shares[1] > shares[0] else "UTF-16BE"
    return ""


def line_end(data: mmap | bytes, offset: int) -> int:
    """Return where the line that holds a byte ends, its newline included."""
    return data.find(b"\n", offset) + 1 or len(data)


def line_number(data: mmap, offset: int) -> int:
    """Return the 1-based number of the line that holds a byte."""
    starts = range(0, offset, BLOCK_BYTES)
    return 1 + sum(data[start : min(start + BLOCK_BYTES, offset)].count(b"\n") for start in starts)


def excerpt(data: mmap, *, start: int, end: int, chars: int) -> str:
    """Return the text between two bytes, cut to a number of characters."""
    longest = 4 * chars  # bytes; a character has four at most
    return data[start : min(end, start + longest)].decode(errors="ignore")[:chars]
