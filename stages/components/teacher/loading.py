"""Load teachers by sentence-transformers, as models of text."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.teacher.glove_file import read_vectors
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.model_kind import names_pooling
from stages.components.teacher.weights.load_faults import WeightFaults, noted_loads
from stages.components.teacher.weights.mending import HALVES, mended_copy, renamed_weights

_PADDING_WORD = "PADDING_TOKEN"  # row 0 if the library reads the file itself


def load_model(source: TeacherSource, *, device: str = "cpu") -> SentenceTransformer:
    """Load a teacher by the library, in float32, without modules for images.

    Raises:
        ProtoRKDError: it cannot be loaded, or a weight that its embeddings need is in none of its files.
    """
    return _text_route(_load(source, device))


def _load(source: TeacherSource, device: str) -> SentenceTransformer:
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    if source.kind == "word-vectors":
        with _quiet():
            return _word_embeddings(source, device)
    try:
        model, faults = _load_by_any_name(source, device)
    except ProtoRKDError:
        raise
    except Exception as error:
        needs_trust = not source.trusts_code and "trust_remote_code" in str(error)
        problem = (
            "it has Python code of its own. Read that, and pass --trust-remote-code to let it run."
            if needs_trust
            else f"{type(error).__name__}: {' '.join(str(error).split())}"
        )
        raise ProtoRKDError(
            f"--teacher must name a model that sentence-transformers can load; {source.name}: {problem}"
        ) from error
    _check_whole(faults, source)
    if not names_pooling(source.path) and len(model) > 1 and isinstance(model[1], Pooling):
        log.info("no pooling is named in %s: the %s is taken", source.name, model[1].pooling_mode)
    return model


def _load_by_any_name(source: TeacherSource, device: str) -> tuple[SentenceTransformer, WeightFaults]:
    """Load a folder as it is, or else without what a wrapper put before the names of its weights."""
    renamed = renamed_weights(source.path)
    try:
        model, faults = _load_folder(source, source.path, device)
        is_named = not any(name.endswith(f".{missing}") for name in renamed for missing in faults.missing)
    except Exception:
        if not renamed:
            raise
        is_named = False
    if is_named:
        return model, faults
    log.info("the weights of %s are named as a wrapper names them: they are taken without it", source.name)
    with mended_copy(source.path) as folder:
        return _load_folder(source, folder, device)


def _load_folder(source: TeacherSource, folder: Path, device: str) -> tuple[SentenceTransformer, WeightFaults]:
    with _quiet(), noted_loads() as loads:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=source.trusts_code,
            model_kwargs={"dtype": torch.float32},
        )
    if any(tensor.dtype in HALVES for tensor in model.state_dict().values()):  # a table of vectors
        model = model.float()
    return model, loads.faults(_text_route(model))


def _check_whole(faults: WeightFaults, source: TeacherSource) -> None:
    if faults.missing:
        raise ProtoRKDError(
            f"--teacher must hold every weight of its {faults.network}, for the rest would be random; got "
            f"{source.name}, which lacks {_few(faults.missing)}. Fetch it again, or save it anew where it was trained, "
            "with the configuration that belongs to its weights."
        )
    if faults.surplus:
        raise ProtoRKDError(
            f"--teacher must have as many layers in config.json as in its weights; got {source.name}, whose weights "
            f"also hold {_few(faults.surplus)}. Fetch config.json again."
        )


def _few(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars off stderr, which both ways of loading draw, and the report of what is told here."""
    reports = logging.getLogger("transformers.modeling_utils")
    reports.addFilter(_drop)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # old model folders name modules by their former paths
            yield
    finally:
        reports.removeFilter(_drop)


def _drop(_record: logging.LogRecord) -> bool:
    return False


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
    if not isinstance(first, Router):
        return model
    if "text" not in first.sub_modules:
        _check_routes_texts(model)
        return model
    return SentenceTransformer(
        modules=[*first.sub_modules["text"], *list(model)[1:]],
        device=str(model.device),
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        truncate_dim=model.truncate_dim,
    )


def _check_routes_texts(model: SentenceTransformer) -> None:
    """Refuse a model that routes by task, and sends a text nowhere unless it is told its task.

    Raises:
        ProtoRKDError: it has no default route.
    """
    try:
        model.preprocess(["a"])
    except ValueError as error:
        routes: Any = model[0]
        names = list(routes.sub_modules)
        raise ProtoRKDError(
            f"--teacher must embed a text without being told its task; got a model with a route for each of "
            f"{', '.join(names)} (Router) and none by default. Save one of them as a model of its own: "
            f"SentenceTransformer(modules=[*model[0].sub_modules[{names[-1]!r}], *list(model)[1:]]).save(OTHER_FOLDER)."
        ) from error


class _Counter(logging.Handler):
    """A counter of errors that a library only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, _record: logging.LogRecord) -> None:
        self.count += 1
