"""Turn captions into token ids, as a model's own ``preprocess`` does, but without padding."""

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

_PREPROCESSED_AT_A_TIME = 128  # the library pads to the longest of them, which costs more than more calls
_ENCODED_AT_A_TIME = 8192  # every caption's `Encoding` takes a kilobyte or two
_LONGEST_SAMPLE = 10_000  # words
_BY_BACKEND = {"input_ids": "ids", "token_type_ids": "type_ids"}
# The two ways are compared on these, which tokenizers clean, split, lowercase or look up differently.
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
    """Token ids of captions, concatenated.

    Args:
        flat: Values of all tokens, by the name of the feature.
        is_cut: Whether a caption has more tokens than the model takes, so that the rest is missing.
        others: Features that belong to no single caption, such as the length of the prompt.

    Shapes:
        flat: (tokens,), int64.
        lengths: (captions,), int64.
        is_cut: (captions,), bool.
    """

    flat: Mapping[str, NDArray[np.int64]]
    lengths: NDArray[np.int64]
    is_cut: NDArray[np.bool_]
    others: Mapping[str, Any] = field(default_factory=dict)


class CaptionTokenizer:
    """A tokenizer that calls the tokenizers library, which uses all cores and does not hold up other Python threads.

    It works on a copy of the model's tokenizer. If some odd captions do not come out as from ``preprocess``, all
    captions go through ``preprocess``.

    Args:
        model: Transformer with a fast tokenizer.
        prompt: Text put before each caption; "" for none.
    """

    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self._model = model
        self._prompt = prompt
        self._limit = model.max_seq_length or np.inf
        limit = min(model.max_seq_length or _LONGEST_SAMPLE, _LONGEST_SAMPLE)
        samples = [*_ODD_CAPTIONS, "red circle " * limit]
        exact = _preprocessed(model, samples, prompt)  # also sets the tokenizer's truncation, copied below
        self._names, self._others = list(exact.flat), exact.others
        self._backend = _copy(model)
        if self._backend is None or not _are_same(self._encoded(self._backend, samples), exact):
            self._backend = None
            log.info("captions are tokenized by sentence-transformers: the tokenizers library alone gives other tokens")

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Tokenize captions."""
        if self._backend is None:
            return _preprocessed(self._model, captions, self._prompt)
        return self._encoded(self._backend, captions)

    def _encoded(self, backend: Tokenizer, captions: Sequence[str]) -> Tokens:
        parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self._names}
        counts, cut = [], []
        for start in range(0, len(captions), _ENCODED_AT_A_TIME):
            texts = [self._prompt + text for text in captions[start : start + _ENCODED_AT_A_TIME]]
            encodings = backend.encode_batch_fast(texts)
            counts.append(np.fromiter(map(len, encodings), np.int64, len(encodings)))
            cut.append(np.zeros(len(encodings), dtype=bool))
            for row in np.flatnonzero(counts[-1] >= self._limit).tolist():  # asking every caption would take time
                cut[-1][row] = bool(encodings[row].overflowing)
            for name, values in parts.items():
                each = (getattr(encoding, _BY_BACKEND[name]) for encoding in encodings)
                values.append(np.fromiter(chain.from_iterable(each), np.int64, counts[-1].sum()))
        flat = {name: np.concatenate(values) for name, values in parts.items()}
        return Tokens(flat, np.concatenate(counts), np.concatenate(cut), self._others)


def _are_same(tokens: Tokens, exact: Tokens) -> bool:
    return np.array_equal(tokens.lengths, exact.lengths) and all(
        np.array_equal(tokens.flat[name], values) for name, values in exact.flat.items()
    )


def _copy(model: SentenceTransformer) -> Tokenizer | None:
    """Copy the model's tokenizer, with its truncation and without padding; None if it cannot be copied."""
    tokenizer: Any = model.tokenizer
    try:
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    except Exception:  # of any type: a part of it may be written in Python
        return None
    backend.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens
    backend.no_padding()
    return backend


def _preprocessed(model: SentenceTransformer, captions: Sequence[str], prompt: str) -> Tokens:
    """Tokenize captions by the library, some at a time, and remove the padding."""
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
    lengths = np.concatenate(counts)
    return Tokens(flat, lengths, _are_cut(model, captions, prompt, lengths), others)


def _are_cut(
    model: SentenceTransformer, captions: Sequence[str], prompt: str, lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tokenize those captions again, uncut, that have as many tokens as the model takes."""
    tokenizer: Any = model.tokenizer
    is_cut = np.zeros(len(captions), dtype=bool)
    rows = np.flatnonzero(lengths >= (model.max_seq_length or np.inf)).tolist()
    for row in rows:
        tokens = tokenizer(prompt + captions[row], add_special_tokens=True, truncation=False, verbose=False)
        is_cut[row] = len(tokens["input_ids"]) > lengths[row]
    if rows:
        model.preprocess([""])  # sets the tokenizer's truncation again
    return is_cut
