"""Load teachers by sentence-transformers, as models of text."""

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.teacher.glove_file import read_vectors
from stages.components.teacher.identity import TeacherSource

_PADDING_WORD = "PADDING_TOKEN"  # row 0 if the library reads the file itself


def load_model(source: TeacherSource, *, device: str = "cpu") -> SentenceTransformer:
    """Load a teacher by the library, without modules for images.

    Raises:
        ProtoRKDError: it cannot be loaded.
    """
    return _text_route(_load(source, device))


def _load(source: TeacherSource, device: str) -> SentenceTransformer:
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        # Both ways of loading draw progress bars on stderr.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            if source.kind == "word-vectors":
                return _word_embeddings(source, device)
            warnings.simplefilter("ignore", FutureWarning)  # old model folders name modules by their former paths
            return SentenceTransformer(
                str(source.path), device=device, local_files_only=True, trust_remote_code=source.trusts_code
            )
    except ProtoRKDError:
        raise
    except Exception as error:
        needs_trust = not source.trusts_code and "trust_remote_code" in str(error)
        problem = (
            "it has Python code of its own. Read that, and pass --trust-remote-code to let it run."
            if needs_trust
            else f"{type(error).__name__}: {error}"
        )
        raise ProtoRKDError(
            f"--teacher must name a model that sentence-transformers can load; {source.name}: {problem}"
        ) from error


def _word_embeddings(source: TeacherSource, device: str) -> SentenceTransformer:
    """Make a mean of word vectors, such as ``average_word_embeddings_glove.6B.300d``, from GloVe's own text file."""
    passed_over = _Counter()
    logger = logging.getLogger(WordEmbeddings.__module__)
    logger.addHandler(passed_over)
    try:
        try:
            words, passed_over.count = _read_quickly(source)
        except ValueError:  # the file is unusual, so the library itself reads it
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


def _read_quickly(source: TeacherSource) -> tuple[WordEmbeddings, int]:
    words, vectors, passed_over = read_vectors(source.path)
    tokenizer = WhitespaceTokenizer([_PADDING_WORD, *words])
    return WordEmbeddings(tokenizer, np.concatenate([np.zeros_like(vectors[:1]), vectors])), passed_over


def _text_route(model: SentenceTransformer) -> SentenceTransformer:
    """Return the text modules of a model that routes text and images apart; any other model as it is."""
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
    """A counter of errors that a library only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, _record: logging.LogRecord) -> None:
        self.count += 1
