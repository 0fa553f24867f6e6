"""Make a small word-embedding teacher from captions alone."""

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError

_WINDOW = 4  # words on each side that count as context
_CONTEXT_WEIGHT = 0.6
_IDENTITY_WEIGHT = 0.8  # the squares of the two weights add up to 1
_SMALLEST_DIM = 8


def word_vectors(captions: Sequence[str], *, dim: int) -> dict[str, NDArray[np.float64]]:
    """Make one unit vector for each word of the captions.

    A quarter of the dimensions encodes the word's context: the leading factors of positive pointwise mutual information
    (Levy and Goldberg, NeurIPS 2014). The rest are signs hashed from the word itself, because words with the same
    context, such as all colours, would otherwise share one vector and a caption could not tell red from blue.

    Args:
        captions: Captions with at least one word in all; case and punctuation around a word are ignored.
        dim: Width of a vector, at least 8; a wider one keeps words further apart.

    Raises:
        ProtoRKDError: ``dim`` is under 8, or there is no word.

    Shapes:
        returns: word to (dim,), float64, unit length; words in alphabetical order.
    """
    if dim < _SMALLEST_DIM:
        raise ProtoRKDError(f"word vector dim must be at least {_SMALLEST_DIM}; got {dim}. Choose 32 or more.")
    context_dim = dim // 4
    sentences = [split_words(caption) for caption in captions]
    words = sorted({word for sentence in sentences for word in sentence})
    if not words:
        raise ProtoRKDError(f"captions must hold at least one word; got none in {len(captions)} captions. Check them.")
    context = _unit_rows(_factor(_positive_mutual_information(sentences, words), context_dim))
    identity = _unit_rows(np.array([_signs(word, dim - context_dim) for word in words]))
    vectors = _unit_rows(np.hstack([_CONTEXT_WEIGHT * context, _IDENTITY_WEIGHT * identity]))
    return dict(zip(words, vectors, strict=True))


def format_glove(vectors: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Write vectors as GloVe's text format: a line for each word, its numbers with five significant digits."""
    lines = (" ".join([word, *(f"{number:.5g}" for number in vector)]) for word, vector in vectors.items())
    return "".join(line + "\n" for line in lines).encode()


def split_words(caption: str) -> list[str]:
    """Return a caption's words in lower case, without the punctuation around them."""
    stripped = (word.strip(string.punctuation) for word in caption.lower().split())
    return [word for word in stripped if word]


def _positive_mutual_information(sentences: Iterable[Sequence[str]], words: Sequence[str]) -> NDArray[np.float64]:
    """Return max(0, log(p(a, b) / (p(a) p(b)))) for each pair of words, where a pair lies within one window."""
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        for position, word in enumerate(sentence):
            pairs.update((word, other) for other in sentence[position + 1 : position + 1 + _WINDOW])
    row = {word: index for index, word in enumerate(words)}
    counts = np.zeros((len(words), len(words)))
    for (word, other), count in pairs.items():
        counts[row[word], row[other]] += count
    counts += counts.T
    by_chance = np.outer(counts.sum(axis=0), counts.sum(axis=0))
    ratio = counts * counts.sum() / np.maximum(by_chance, 1)
    return np.asarray(np.log(np.maximum(ratio, 1)))


def _factor(matrix: NDArray[np.float64], num_factors: int) -> NDArray[np.float64]:
    """Return the leading left singular vectors, scaled by the roots of their singular values.

    The sign of a singular vector is arbitrary; here its largest entry is positive.
    """
    left, values, _ = np.linalg.svd(matrix)
    left, values = left[:, :num_factors], values[:num_factors]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    factors = left * np.where(largest < 0, -1, 1) * np.sqrt(values)
    return np.pad(factors, ((0, 0), (0, num_factors - factors.shape[1])))


def _signs(word: str, count: int) -> NDArray[np.float64]:
    """Return ``count`` numbers, each +1 or -1, that depend on the word's spelling alone."""
    digest = np.frombuffer(hashlib.shake_256(word.encode()).digest((count + 7) // 8), dtype=np.uint8)
    return np.unpackbits(digest)[:count].astype(np.float64) * 2 - 1


def _unit_rows(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(lengths, 1e-12), dtype=np.float64)
