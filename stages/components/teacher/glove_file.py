"""Read files of word vectors in GloVe's format, column by column."""

import codecs
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

_SEPARATOR = " "


def read_vectors(path: Path) -> tuple[list[str], NDArray[np.float32], int]:
    """Read word vectors as `WordEmbeddings.from_text_file` does, dozens of times faster and with less memory.

    Lines of two fields before the first word are a header of word2vec.

    Args:
        path: File with a word and its numbers on each line, perhaps compressed with gzip.

    Returns:
        The words, their vectors, and the number of lines that are skipped because their width differs from the first
        line's; blank ones do not count.

    Raises:
        ValueError: the library would read the file differently, or not at all.

    Shapes:
        vectors: (words, dim), float32.
    """
    passed_over: list[str | None] = []

    def pass_over(row: pa_csv.InvalidRow) -> str:
        passed_over.append(row.text)
        return "skip"

    num_headers, dim = measure_vectors(path)
    names = [str(number) for number in range(dim + 1)]
    words: list[str] = []
    blocks: list[NDArray[np.float32]] = []
    with pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(skip_rows=num_headers, column_names=names, use_threads=False),
        parse_options=pa_csv.ParseOptions(delimiter=_SEPARATOR, quote_char=False, invalid_row_handler=pass_over),
        convert_options=pa_csv.ConvertOptions(
            column_types={names[0]: pa.string(), **dict.fromkeys(names[1:], pa.float64())},
            null_values=[],
            strings_can_be_null=False,
        ),
    ) as reader:
        for batch in reader:
            words += batch.column(0).to_pylist()
            blocks.append(np.stack([np.asarray(column) for column in batch.columns[1:]], axis=1).astype(np.float32))
    if any(text is None or text != text.rstrip() for text in passed_over):
        raise ValueError("a line ends in whitespace")
    return words, np.concatenate(blocks), len(passed_over)


def measure_vectors(path: Path) -> tuple[int, int]:
    """Return the number of header lines, and the width of the first vector."""
    with pa.input_stream(str(path)) as stream, pa.BufferReader(stream.read(1 << 20)) as head:
        lines = head.read().split(b"\n")
    if lines[0].startswith(codecs.BOM_UTF8):
        raise ValueError("a byte-order mark")
    for number, line in enumerate(lines[:-1]):
        text = line.decode()
        fields = text.rstrip().split(_SEPARATOR)
        if len(fields) != 2:
            if text.rstrip("\r") != text.rstrip() or len(fields) < 2:
                raise ValueError("its first line ends in whitespace, or has no numbers")
            return number, len(fields) - 1
    raise ValueError("no line of numbers at its beginning")
