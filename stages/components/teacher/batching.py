"""Tokenize captions for the teacher's network, and cut them into batches of near-equal length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from torch import Tensor

from stages.components.teacher.tokenizing import CaptionTokenizer

_CHARACTERS_PER_TOKEN = 4
_SUMMED_AT_A_TIME = 4096
_ENOUGH_TOKENS = 8192
_PADDED_NAMES = {"input_ids", "attention_mask", "token_type_ids"}
# The output of these modules for a caption does not depend on its batch's padding.
_INDIFFERENT_TO_PADDING = (Pooling, Dense, Dropout, LayerNorm, Normalize, WeightedLayerPooling)


@dataclass(frozen=True)
class Batch:
    """A batch of tokenized captions.

    Args:
        features: Input of the network's first module, on the CPU.
        num_cut: Number of captions that have more tokens than the teacher takes, whose rest is missing.

    Shapes:
        rows: (batch,), int64: positions of the captions among those that were passed.
    """

    rows: NDArray[np.int64]
    features: dict[str, Any]
    num_cut: int = 0


class Batcher(Protocol):
    """A function that makes batches of captions, with every caption in exactly one of them."""

    def __call__(self, captions: pa.Array, *, batch_tokens: int) -> list[Batch]:
        """Tokenize captions and cut them into batches.

        Args:
            captions: Captions, as strings.
            batch_tokens: Tokens in one batch, padding included; a longer caption makes a batch of its own.
        """
        ...


class PaddedBatches:
    """A `Batcher` for transformers: it tokenizes each caption once, and pads batches of token ids.

    Args:
        model: Model that `fits`.
        prompt: Text put before each caption; "" for none.
    """

    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self._tokenize = CaptionTokenizer(model, prompt)
        tokenizer: Any = model.tokenizer
        self._pads_left = tokenizer.padding_side == "left"
        self._padding = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}

    @classmethod
    def fits(cls, model: SentenceTransformer) -> bool:
        """Return whether the model is a transformer with a fast tokenizer, and no later module depends on padding."""
        first: Any = model[0]
        if type(first) is not Transformer or set(model.modalities) != {"text"}:
            return False
        if not getattr(first.tokenizer, "is_fast", False):
            return False
        if not all(type(module) in _INDIFFERENT_TO_PADDING for module in list(model)[1:]):
            return False
        features = model.preprocess(["a", "a a"])
        tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        shapes = {value.shape for value in tensors.values()}
        return {"input_ids", "attention_mask"} <= set(tensors) <= _PADDED_NAMES and len(shapes) == 1

    def __call__(self, captions: pa.Array, *, batch_tokens: int) -> list[Batch]:
        """Tokenize captions and cut them, as `Batcher` says."""
        if not len(captions):
            return []
        # Sorted by length in characters first, which decides the order of captions with equally many tokens.
        order = np.argsort(np.asarray(pc.utf8_length(captions)), kind="stable")
        tokens = self._tokenize(captions.take(pa.array(order)).to_pylist())
        starts = np.cumsum(tokens.lengths) - tokens.lengths
        batches = []
        for rows in token_batches(tokens.lengths, batch_tokens=batch_tokens):
            padded = self._pad(tokens.flat, starts[rows], tokens.lengths[rows])
            features = {name: torch.from_numpy(values) for name, values in padded.items()}
            num_cut = int(np.count_nonzero(tokens.is_cut[rows]))
            batches.append(Batch(order[rows], {**features, **tokens.others}, num_cut))
        return batches

    def _pad(
        self, flat: Mapping[str, NDArray[np.int64]], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Pad the captions that begin at the given places of the flat tokens to one width."""
        width = max(int(lengths.max()), 1)
        places = np.arange(width)[::-1] if self._pads_left else np.arange(width)
        is_token = places < lengths[:, None]  # (captions, width)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        chosen = np.repeat(starts, lengths) + within
        padded = {"attention_mask": is_token.astype(np.int64)}
        for name, values in flat.items():
            padded[name] = np.full(is_token.shape, self._padding[name], dtype=np.int64)
            padded[name][is_token] = values[chosen]
        return padded


class StaticBatches:
    """A `Batcher` for static embeddings, which have no padding: batches of many captions, in their order.

    Args:
        model: Model that `fits`.
        prompt: Text put before each caption; "" for none.
    """

    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self._model = model
        self._prompt = prompt

    @classmethod
    def fits(cls, model: SentenceTransformer) -> bool:
        """Return whether the model begins with static embeddings."""
        return type(model[0]) is StaticEmbedding

    def __call__(self, captions: pa.Array, *, batch_tokens: int) -> list[Batch]:  # noqa: ARG002 - nothing is padded
        """Tokenize captions and cut them, as `Batcher` says."""
        parts = np.split(np.arange(len(captions)), range(_SUMMED_AT_A_TIME, len(captions), _SUMMED_AT_A_TIME))
        return [
            Batch(rows, self._model.preprocess(captions.take(pa.array(rows)).to_pylist(), prompt=self._prompt or None))
            for rows in parts
            if rows.size
        ]


class LibraryBatches:
    """A `Batcher` for any other model: the library makes the features of each batch, as its ``encode`` does.

    Args:
        model: Any model.
        prompt: Text put before each caption; "" for none.
    """

    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self._model = model
        self._prompt = prompt
        # A model that also takes images would open a caption that looks like a path or an address.
        self._wrap = set(model.modalities) != {"text"}

    def __call__(self, captions: pa.Array, *, batch_tokens: int) -> list[Batch]:
        """Tokenize captions and cut them, as `Batcher` says."""
        texts: list[str] = captions.to_pylist()
        inputs: list[Any] = [{"text": text} for text in texts] if self._wrap else texts
        counts, is_cut = self._token_counts(texts)
        return [
            Batch(
                rows,
                self._model.preprocess([inputs[row] for row in rows], prompt=self._prompt or None),
                int(np.count_nonzero(is_cut[rows])),
            )
            for rows in token_batches(counts, batch_tokens=batch_tokens)
        ]

    def _token_counts(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Count the tokens of each caption up to the limit; say which have more, unless the counts are estimates."""
        limit = self._model.max_seq_length or np.inf
        try:
            tokenizer: Any = self._model.tokenizer
            prompted = [f"{self._prompt}{text}" for text in texts]
            if callable(tokenizer):
                encoded = tokenizer(prompted, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
            else:
                encoded = [tokenizer.tokenize(text) for text in prompted]
            counts = [len(tokens) for tokens in encoded]
        except Exception:  # its tokenizer may be of any kind, and an estimate is enough
            estimates = np.array([len(text) // _CHARACTERS_PER_TOKEN + 1 for text in texts], dtype=np.int64)
            return np.minimum(estimates, limit).astype(np.int64), np.zeros(len(texts), dtype=bool)
        return np.minimum(counts, limit).astype(np.int64), np.greater(counts, limit)


def token_batches(counts: NDArray[np.int64], *, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut rows, shortest first, into batches of at most ``batch_tokens`` tokens with padding; a longer row goes alone.

    Where the length changes, a batch also ends if it is half full, or has 8,192 tokens, so that most batches have no
    padding: 8,192 tokens keep a GPU busy for longer than their launch takes, so padding would cost more.

    Shapes:
        counts: (rows,), int64.
        yields: (batch,), int64: row numbers; together every row once.
    """
    order = np.argsort(counts, kind="stable")
    lengths = np.maximum(counts[order], 1).tolist()
    filled = min(batch_tokens, 2 * _ENOUGH_TOKENS)
    start = 0
    for stop in range(1, len(order) + 1):
        if stop < len(order):
            over = (stop + 1 - start) * lengths[stop] > batch_tokens
            half_full = lengths[stop] > lengths[stop - 1] and 2 * (stop - start) * lengths[stop - 1] >= filled
            if not (over or half_full):
                continue
        yield order[start:stop]
        start = stop
