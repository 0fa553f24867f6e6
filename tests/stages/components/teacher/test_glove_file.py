"""Files of word vectors: read quickly, to what the library reads, or left to it."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import WordEmbeddings

from stages.components.teacher.glove_file import read_vectors
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.loading import _word_embeddings

PLAIN = "red 1 2 3\nblue -1.5 2e-3 0.1\n"


def as_library(path: Path) -> tuple[list[str], np.ndarray]:
    words = WordEmbeddings.from_text_file(str(path))
    return list(words.tokenizer.get_vocab()), words.emb_layer.weight.detach().numpy()


def as_teacher(path: Path) -> tuple[list[str], np.ndarray]:
    words = _word_embeddings(find_teacher(str(path)), "cpu")[0]
    return list(words.tokenizer.get_vocab()), words.emb_layer.weight.detach().numpy()


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip(),
        PLAIN.replace("\n", "\r\n"),
        "2 3\n" + PLAIN,
        "2 3\n4 5\n" + PLAIN,
        PLAIN + "torn 1 2\n\nlong 1 2 3 4\n" + PLAIN.upper().replace("E-3", ""),
        'red 1 2 3\n"quoted 1 2 3\n\'it"s" 3 2 1\n',
        "red 1 2 3\nNA nan 2 3\nnull inf -inf 3\n 1 2 3\n",
        "red 1 2 3\n\tblue 1 2 3\t\n",
        "straße 1 2 3\n犬 4 5 6\n\xa0 7 8 9\n",
    ],
)
def test_read_vectors__gives_what_the_library_reads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf8", newline="")
    words, vectors, passed_over = read_vectors(path)
    expected_words, expected = as_library(path)
    assert ["PADDING_TOKEN", *words] == expected_words
    np.testing.assert_array_equal(vectors, expected[1:])
    assert passed_over == (2 if "torn" in text else 0)


def test_read_vectors__rounds_numbers_as_the_library_does(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [
        f"w{row} " + " ".join(repr(rng.gauss(0, 10 ** rng.randint(-6, 6))) for _ in range(7)) for row in range(500)
    ]
    path = tmp_path / "words.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    np.testing.assert_array_equal(read_vectors(path)[1], as_library(path)[1][1:])


@pytest.mark.parametrize(
    "text",
    [
        "red 1 2 3 \nblue 1 2 3 \n",
        "red 1 2 3\nblue 1 2 3 \n",
        "red 1 2 3\nblue 1 2 3 4 \n",
        "red 1 2 3\nblue 1 2 \n",
        "red 1 2 3\nblue 1_0 2 3\n",
        "\ufeffred 1 2 3\nblue 1 2 3\n",
    ],
)
def test_read_vectors__leaves_odd_files_to_the_library(text: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match=r"."):
        read_vectors(path)
    words, vectors = as_teacher(path)
    expected_words, expected = as_library(path)
    assert words == expected_words
    np.testing.assert_array_equal(vectors, expected)
