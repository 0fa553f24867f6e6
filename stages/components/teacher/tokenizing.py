"""Captions as token ids: what a model's own ``preprocess`` gives, without its padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.log import log

_PREPROCESSED_AT_A_TIME = 128  # the library pads them to the longest, which costs more than the call
_ENCODED_AT_A_TIME = 8192  # every caption's `Encoding` takes a kilobyte or two
_LONGEST_SAMPLE = 10_000  # words
_BY_BACKEND = {"input_ids": "ids", "token_type_ids": "type_ids"}
# By these the two ways are compared: what tokenizers clean, split, lower or look up in ways of their own.
_ODD_CAPTIONS = (
    "",
    " ",
    "a",
    "  A Red\tCIRCLE \r\n",
    "don't-stop! 3,141.59 (50%) #tag @user",
    "À É îõü ß ﬁ Ⅷ ½ İı cafe\u0301",
    "日本語の猫 고양이 שלום مرحبا",
    "🐈\u200d⬛ 👩🏽\u200d🚀 \u200b\u00a0\ufeff\x07\ufffd",
    "<s> [CLS] [MASK] [SEP] </s> <|endoftext|> <pad>",
    "abc" * 100,
)


@dataclass(frozen=True)
class Tokens:
    """Captions, one behind the other.

    Args:
        flat: by the name of the feature.
        others: features that belong to no caption, such as the length of the prompt.

    Shapes:
        flat: (tokens,), int64.
        lengths: (captions,), int64.
    """

    flat: Mapping[str, NDArray[np.int64]]
    lengths: NDArray[np.int64]
    others: Mapping[str, Any] = field(default_factory=dict)


class CaptionTokenizer:
    """Tokenizes captions by the tokenizers library: on all cores, and beside what else Python does.

    It works on a copy of the model's tokenizer, which it leaves as it is. Where some odd captions do not come out as
    ``preprocess`` gives them, all go through ``preprocess``.

    Args:
        model: a transformer with a fast tokenizer.
        prompt: put before each caption; "" for none.
    """

    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self._model = model
        self._prompt = prompt
        limit = min(model.max_seq_length or _LONGEST_SAMPLE, _LONGEST_SAMPLE)
        samples = [*_ODD_CAPTIONS, "red circle " * limit]
        exact = _preprocessed(model, samples, prompt)  # after which the tokenizer truncates as it asked for
        self._names, self._others = list(exact.flat), exact.others
        self._backend = _copy(model)
        if self._backend is None or not _are_same(self._encoded(self._backend, samples), exact):
            self._backend = None
            log.info("captions are tokenized by sentence-transformers: the tokenizers library alone gives other tokens")

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Tokenize."""
        if self._backend is None:
            return _preprocessed(self._model, captions, self._prompt)
        return self._encoded(self._backend, captions)

    def _encoded(self, backend: Tokenizer, captions: Sequence[str]) -> Tokens:
        parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self._names}
        counts = []
        for start in range(0, len(captions), _ENCODED_AT_A_TIME):
            texts = [self._prompt + text for text in captions[start : start + _ENCODED_AT_A_TIME]]
            encodings = backend.encode_batch_fast(texts)
            counts.append(np.fromiter(map(len, encodings), np.int64, len(encodings)))
            for name, values in parts.items():
                each = (getattr(encoding, _BY_BACKEND[name]) for encoding in encodings)
                values.append(np.fromiter(chain.from_iterable(each), np.int64, counts[-1].sum()))
        flat = {name: np.concatenate(values) for name, values in parts.items()}
        return Tokens(flat, np.concatenate(counts), self._others)


def _are_same(given: Tokens, exact: Tokens) -> bool:
    return np.array_equal(given.lengths, exact.lengths) and all(
        np.array_equal(given.flat[name], values) for name, values in exact.flat.items()
    )


def _copy(model: SentenceTransformer) -> Tokenizer | None:
    """The model's tokenizer once more, truncating as it does and without padding; None where that cannot be."""
    tokenizer: Any = model.tokenizer
    try:
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    except Exception:  # of no kind: a part of it may be written in Python
        return None
    backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    backend.no_padding()
    return backend


def _preprocessed(model: SentenceTransformer, captions: Sequence[str], prompt: str) -> Tokens:
    """What the library makes of captions, some at a time, with the padding taken out again."""
    parts: dict[str, list[NDArray[np.int64]]] = {}
    counts = []
    others: dict[str, Any] = {}
    for start in range(0, len(captions), _PREPROCESSED_AT_A_TIME):
        features = model.preprocess(list(captions[start : start + _PREPROCESSED_AT_A_TIME]), prompt=prompt or None)
        padded = {name: value.numpy() for name, value in features.items() if isinstance(value, Tensor)}
        others = {name: value for name, value in features.items() if name not in padded}
        is_token = padded.pop("attention_mask") != 0
        counts.append(is_token.sum(axis=1))
        for name, values in padded.items():
            parts.setdefault(name, []).append(values[is_token])
    flat = {name: np.concatenate(values) for name, values in parts.items()}
    return Tokens(flat, np.concatenate(counts), others)
