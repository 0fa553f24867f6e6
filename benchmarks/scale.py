"""Measure what `encode-teacher` costs per row as manifests grow: time, peak memory, bytes on disk.

python -m benchmarks.scale --rows 1000000 --rows 10000000
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).parents[1]
_BLOCK_ROWS = 1 << 19
_DISTINCT_SHARE = 0.8
_FEWEST_WORDS, _MOST_WORDS = 5, 11
_VOCABULARY = 8192
_VECTOR_DIM = 50


def main() -> None:
    """Generate, encode from the command line in a process of its own, and print a line of figures for each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    parser.add_argument("--rows", type=int, action="append", required=True, help="Rows of the manifest; repeatable.")
    parser.add_argument("--folder", type=Path, help="Where all is written, and removed again. Default: the system's.")
    options = parser.parse_args()
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps(measure(rows, Path(folder))), flush=True)


def measure(rows: int, folder: Path) -> dict[str, float]:
    """Measure seconds, microseconds per row, peak memory and bytes on disk for a manifest of ``rows`` rows.

    The peak is the greatest of all child processes so far, so sizes have to grow from call to call.
    """
    write_manifest(folder / "pairs.tsv", rows)
    write_vectors(folder / "vectors.txt")
    words = ["encode-teacher", "--manifest", "pairs.tsv", "--teacher", "vectors.txt", "--device", "cpu"]
    command = [sys.executable, str(ROOT / "cli.py"), *words, "--store", "store", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=_environment())
    seconds = time.perf_counter() - start
    counts = json.loads(done.stdout.splitlines()[-1])["counts"]
    return {
        "rows": rows,
        "distinct_captions": counts["captions"],
        "seconds": round(seconds, 1),
        "microseconds_per_row": round(1e6 * seconds / rows, 2),
        "rows_per_second": round(rows / seconds),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6),
        "manifest_mb": round((folder / "pairs.tsv").stat().st_size / 1e6),
        "store_mb": round(sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file()) / 1e6),
    }


def write_manifest(path: Path, rows: int) -> None:
    """Write a manifest of which four captions in five are new and the fifth is one of those before it."""
    generator = np.random.default_rng(0)
    vocabulary = pa.array(_words())
    num_distinct = 0
    with path.open("wb") as file:
        file.write(b"filepath\ttitle\n")
        for start in range(0, rows, _BLOCK_ROWS):
            number = np.arange(start, min(start + _BLOCK_ROWS, rows))
            fresh = generator.random(len(number)) < _DISTINCT_SHARE
            fresh[0] |= start == 0
            captions = num_distinct + np.cumsum(fresh) - 1
            num_distinct = int(captions[-1]) + 1
            captions[~fresh] = (generator.random(np.count_nonzero(~fresh)) * captions[~fresh]).astype(np.int64)
            images = pc.binary_join_element_wise("images/", pa.array(number).cast(pa.string()), ".jpg", "")
            lines = pc.binary_join_element_wise(images, _captions(captions, vocabulary), "\t")
            file.write("\n".join(lines.to_pylist()).encode() + b"\n")


def write_vectors(path: Path) -> None:
    """Write word vectors in GloVe's format, for every word of the captions."""
    vectors = np.random.default_rng(1).normal(size=(_VOCABULARY, _VECTOR_DIM))
    rows = [" ".join([word, *(f"{value:.5f}" for value in row)]) for word, row in zip(_words(), vectors, strict=True)]
    path.write_text("\n".join(rows) + "\n")


def _captions(numbers: np.ndarray, vocabulary: pa.Array) -> pa.Array:
    """Make a different caption for each number: its digits to the base of the vocabulary, and more words."""
    num_words = _FEWEST_WORDS + numbers * 31 % (_MOST_WORDS - _FEWEST_WORDS + 1)
    columns = []
    for place in range(_MOST_WORDS):
        digits = (numbers >> (13 * place) if place < 2 else numbers * (2 * place + 1) + place) % _VOCABULARY
        columns.append(vocabulary.take(pa.array(digits, mask=place >= num_words)))
    return pc.binary_join_element_wise(*columns, " ", null_handling="skip")


def _words() -> list[str]:
    return ["".join(parts) for parts in itertools.product("bdfgklmp", _VOWELS, "nrst", _VOWELS)]


_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou", "io", "ua", "oa", "ee", "oo", "ie", "au", "ue"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
