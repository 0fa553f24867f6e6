"""Teachers that average word vectors: captions become bags of words, looked up in whole columns."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    WordEmbeddings,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import Tensor, nn

from stages.components.teacher.batching import Batch

_AFTER_POOLING = (Dense, Dropout, LayerNorm, Normalize)


def averages_words(model: SentenceTransformer) -> bool:
    """Return whether the model averages the vectors of words that are split at whitespace."""
    if len(model) < 2:
        return False
    first: Any = model[0]
    second: Any = model[1]
    return (
        type(first) is WordEmbeddings
        and type(first.tokenizer) is WhitespaceTokenizer
        and type(second) is Pooling
        and second.pooling_mode == "mean"
        and all(type(module) in _AFTER_POOLING for module in list(model)[2:])
    )


class WordBags(nn.Sequential):
    """The network of a model that `averages_words`: means of vectors, then the modules after the pooling."""

    def __init__(self, model: SentenceTransformer) -> None:
        words: Any = model[0]
        super().__init__(MeanVectors(words.emb_layer.weight), *list(model)[2:])


class MeanVectors(nn.Module):
    """The mean of each bag's vectors; the zero vector for an empty bag.

    Shapes:
        input_ids: (words,), int64: words of all bags, concatenated.
        offsets: (bags,), int64: start of each bag.
        sentence_embedding: (bags, dim), float32.
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.detach().float())

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Add ``sentence_embedding`` to the features."""
        vectors: Any = self.vectors
        bags = nn.functional.embedding_bag(features["input_ids"], vectors, features["offsets"], mode="mean")
        return {**features, "sentence_embedding": bags}


class WordBatches:
    """A `Batcher` that makes one batch of all captions; the library's tokenizer sees each distinct word once.

    Args:
        words: First module of a model that `averages_words`.
        prompt: Text put before each caption; "" for none.
        max_words: Number of known words of a caption that count; the rest is left out.
    """

    def __init__(self, words: WordEmbeddings, prompt: str, *, max_words: int) -> None:
        self._tokenizer: Any = words.tokenizer
        self._prompt = prompt
        self._max_words = max_words

    def __call__(self, captions: pa.Array, *, batch_tokens: int) -> list[Batch]:  # noqa: ARG002 - nothing is padded
        """Tokenize captions, as `stages.components.teacher.batching.Batcher` says, but without a need to cut them."""
        if not len(captions):
            return []
        if self._prompt:
            parts = [pa.scalar(text, captions.type) for text in (self._prompt, "")]
            captions = pc.binary_join_element_wise(parts[0], captions, parts[1])
        # pyarrow splits at the same code points as str.split; it leaves empty words at the ends, which are unknown.
        parts = pc.utf8_split_whitespace(captions)
        words = parts.flatten().dictionary_encode()
        known = [self._tokenizer.tokenize(word) for word in words.dictionary.to_pylist()]
        ids = np.array([found[0] if found else -1 for found in known], dtype=np.int64)[np.asarray(words.indices)]
        caption_of = np.repeat(np.arange(len(captions)), np.asarray(pc.list_value_length(parts)))
        ids, caption_of = ids[ids >= 0], caption_of[ids >= 0]
        starts, counts = _bags(caption_of, len(captions))
        num_cut = int(np.count_nonzero(counts > self._max_words))
        if num_cut:
            kept = np.arange(len(ids)) - starts[caption_of] < self._max_words
            ids = ids[kept]
            starts, _ = _bags(caption_of[kept], len(captions))
        features = {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(starts)}
        return [Batch(np.arange(len(captions)), features, num_cut)]


def _bags(caption_of: NDArray[np.int64], num_captions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and the number of each caption's words."""
    counts = np.bincount(caption_of, minlength=num_captions)
    return np.cumsum(counts) - counts, counts
