"""The frozen teacher: a sentence-transformers model in eval mode that embeds captions as text."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, WordEmbeddings

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.teacher_identity import TeacherSource

_SORT_CHARACTERS_PER_TOKEN = 4
_CUTS_WORD_VECTORS_SINCE = (6, 2)
_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 1024, 16384


class Teacher:
    """Embeds captions; never trained, never in train mode.

    Args:
        source: where its bytes lie.
        max_tokens: longest caption in tokens, the rest is cut off; 0 for the model's own limit.
        prompt: put before each caption.
        truncate_dim: keep the first so many dimensions; 0 for all.
        device: such as "cpu" or "cuda".

    Raises:
        ProtoRKDError: the model cannot be loaded.
    """

    def __init__(
        self,
        source: TeacherSource,
        *,
        max_tokens: int = 0,
        prompt: str = "",
        truncate_dim: int = 0,
        device: str = "cpu",
    ) -> None:
        self._model = _text_route(_load(source, device))
        self._model.eval()
        self._prompt = prompt or None
        self._truncate_dim = truncate_dim or None
        if max_tokens:
            if source.kind == "word-vectors" and _library_version() < _CUTS_WORD_VECTORS_SINCE:
                raise ProtoRKDError(
                    "--max-tokens must be 0 for word vectors, which sentence-transformers cuts off only since 6.2; "
                    f"got {max_tokens}. Leave it out, or upgrade sentence-transformers."
                )
            limit = self._model.max_seq_length
            if limit and max_tokens > limit:
                raise ProtoRKDError(f"--max-tokens must be at most the teacher's own limit, {limit}; got {max_tokens}.")
            self._model.max_seq_length = max_tokens
        # A model that also takes pictures would open a caption that looks like a path or an address.
        self._wrap = set(self._model.modalities) != {"text"}
        full_dim = self._model.get_embedding_dimension()
        if full_dim is None or truncate_dim > full_dim:
            raise ProtoRKDError(f"--truncate-dim must be at most the teacher's width, {full_dim}; got {truncate_dim}.")
        self.dim = truncate_dim or full_dim

    def token_counts(self, captions: Sequence[str]) -> NDArray[np.int64]:
        """Number of tokens of each caption, as the model would see it, with the prompt.

        Shapes:
            returns: (captions,), int64.
        """
        limit = self._model.max_seq_length or np.iinfo(np.int64).max
        tokenizer: Any = self._model.tokenizer
        texts = [f"{self._prompt or ''}{caption}" for caption in captions]
        try:
            if callable(tokenizer):
                encoded = tokenizer(texts, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
            else:
                encoded = [tokenizer.tokenize(text) for text in texts]
            counts = [len(tokens) for tokens in encoded]
        except Exception:
            counts = [len(text) // _SORT_CHARACTERS_PER_TOKEN + 1 for text in texts]
        return np.minimum(np.asarray(counts, dtype=np.int64), limit)

    def encode(self, captions: Sequence[str], *, batch_tokens: int = 0) -> NDArray[np.float32]:
        """Embed captions, in batches of near-equal length whose padded size stays within a token budget.

        Args:
            captions: kept in order, whatever the batches.
            batch_tokens: tokens in one batch, padding included; a longer caption makes a batch of its own. 0 takes
                what suits the device: a CPU's cache is small, a GPU wants to be filled.

        Shapes:
            returns: (captions, dim), float32.
        """
        batch_tokens = batch_tokens or (_CPU_BATCH_TOKENS if self._model.device.type == "cpu" else _GPU_BATCH_TOKENS)
        embeddings = np.empty((len(captions), self.dim), dtype=np.float32)
        for rows in token_batches(self.token_counts(captions), batch_tokens=batch_tokens):
            embeddings[rows] = self._encode_batch([captions[row] for row in rows])
        return embeddings

    def _encode_batch(self, captions: list[str]) -> NDArray[np.float32]:
        encoded = self._model.encode(
            [{"text": caption} for caption in captions] if self._wrap else captions,
            prompt=self._prompt,
            batch_size=len(captions),
            truncate_dim=self._truncate_dim,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(encoded, dtype=np.float32)


def _library_version() -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version("sentence-transformers").split(".")[:2])


def token_batches(counts: NDArray[np.int64], *, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut rows, shortest first, into batches of at most ``batch_tokens`` tokens with padding; a longer row goes alone.

    Shapes:
        counts: (rows,), int64.
        yields: (batch,), int64: row numbers; together every row once.
    """
    order = np.argsort(counts, kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        longest_with_next = counts[order[stop]] if stop < len(order) else None
        if longest_with_next is None or (stop + 1 - start) * max(int(longest_with_next), 1) > batch_tokens:
            yield order[start:stop]
            start = stop


def _load(source: TeacherSource, device: str) -> SentenceTransformer:
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        # Both ways of loading draw bars of their own on stderr.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            if source.kind == "word-vectors":
                return _word_embeddings(source, device)
            warnings.simplefilter("ignore", FutureWarning)  # old model folders name their modules by former paths
            return SentenceTransformer(str(source.path), device=device, local_files_only=True)
    except ProtoRKDError:
        raise
    except Exception as error:
        raise ProtoRKDError(
            f"--teacher must name a model that sentence-transformers can load; {source.name}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _word_embeddings(source: TeacherSource, device: str) -> SentenceTransformer:
    """Average of word vectors: what ``average_word_embeddings_glove.6B.300d`` is, from GloVe's own text file."""
    passed_over = _Counter()
    logger = logging.getLogger(WordEmbeddings.__module__)
    logger.addHandler(passed_over)
    try:
        words = WordEmbeddings.from_text_file(str(source.path))
        if not words.get_embedding_dimension():
            raise ValueError("its first line has no numbers")
    except (ValueError, UnicodeDecodeError, RuntimeError, AttributeError, IndexError, OSError) as error:
        raise ProtoRKDError(
            f"--teacher must name a text file of word vectors (a word and its numbers a line, as GloVe writes them); "
            f"got {source.name}: {error}."
        ) from error
    finally:
        logger.removeHandler(passed_over)
    if passed_over.count:
        log.info("%d lines of %s have another width than the first and are passed over", passed_over.count, source.name)
    return SentenceTransformer(
        modules=[words, Pooling(words.get_embedding_dimension(), pooling_mode="mean")], device=device
    )


def _text_route(model: SentenceTransformer) -> SentenceTransformer:
    """A model that routes captions and pictures apart, without what is for pictures."""
    first: Any = model[0]
    if not isinstance(first, Router) or "text" not in first.sub_modules:
        return model
    return SentenceTransformer(
        modules=[*first.sub_modules["text"], *list(model)[1:]],
        device=str(model.device),
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        truncate_dim=model.truncate_dim,
    )


class _Counter(logging.Handler):
    """Counts errors that a library only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, _record: logging.LogRecord) -> None:
        self.count += 1
