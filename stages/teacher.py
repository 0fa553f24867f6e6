"""The frozen teacher: a sentence-transformers model in eval mode that embeds captions as text."""

import contextlib
import copy
import io
import logging
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.caption_batches import Batch, Batcher, LibraryBatches, PaddedBatches, StaticBatches
from stages.packed_linear import pack_linears
from stages.precision import full_float32
from stages.teacher_identity import TeacherSource
from stages.teacher_precision import nearness, set_precision
from stages.vector_file import read_vectors
from stages.word_bags import WordBags, WordBatches, averages_words

_PADDING_WORD = "PADDING_TOKEN"  # has row 0 in the library's own reading
_CUTS_WORD_VECTORS_SINCE = (6, 2)
_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 1024, 16384


class Teacher:
    """Embeds captions as the model's own ``encode`` does, but for rounding; never trained, never in train mode.

    Args:
        source: where its bytes lie.
        max_tokens: longest caption in tokens, the rest is cut off; 0 for the model's own limit.
        prompt: put before each caption.
        truncate_dim: keep the first so many dimensions; 0 for all.
        precision: "fp32", "bf16" or "fp16".
        sample: captions by which fewer bits than fp32 are compared with it, in ``nearness``.
        devices: such as "cpu" or "cuda:0"; each gets a copy of the model, and they share the batches.

    Raises:
        ProtoRKDError: the model cannot be loaded, or does not allow what is asked for.
    """

    def __init__(
        self,
        source: TeacherSource,
        *,
        max_tokens: int = 0,
        prompt: str = "",
        truncate_dim: int = 0,
        precision: str = "fp32",
        sample: Sequence[str] = (),
        devices: Sequence[str] = ("cpu",),
    ) -> None:
        model = load_model(source, device=devices[0])
        model.eval()
        if max_tokens:
            _cut_at(max_tokens, model, source)
        full_dim = model.get_embedding_dimension()
        if full_dim is None or truncate_dim > full_dim:
            raise ProtoRKDError(f"--truncate-dim must be at most the teacher's width, {full_dim}; got {truncate_dim}.")
        self.dim = truncate_dim or full_dim
        self._devices = [torch.device(device) for device in devices]
        prompt = prompt or model.prompts.get(model.default_prompt_name or "") or ""
        self._batcher, network = _engine(model, prompt)
        self._networks = [network]
        self.nearness: dict[str, float] = {}
        exact = self.encode(sample) if precision != "fp32" else None
        if precision != "fp32":
            set_precision(model, precision, self._devices)
            self._batcher, network = _engine(model, prompt)
        self._networks = [network, *(copy.deepcopy(network).to(device) for device in self._devices[1:])]
        for copied, device in zip(self._networks, self._devices, strict=True):
            if device.type == "cpu" and isinstance(self._batcher, PaddedBatches):
                pack_linears(copied)
        if exact is not None and len(exact):
            self.nearness = nearness(self.encode(sample), exact, precision=precision)

    def tokenize(self, captions: pa.Array, *, batch_tokens: int = 0) -> list[Batch]:
        """Make captions ready for `embed`, on the CPU; beside it, where threads allow.

        Args:
            captions: strings.
            batch_tokens: tokens in one batch, padding included; a longer caption makes a batch of its own. 0 takes
                what suits the device: a CPU's cache is small, a GPU wants to be filled.
        """
        on_cpu = self._devices[0].type == "cpu"
        return self._batcher(
            captions, batch_tokens=batch_tokens or (_CPU_BATCH_TOKENS if on_cpu else _GPU_BATCH_TOKENS)
        )

    @full_float32()
    def embed(self, batches: Sequence[Batch]) -> NDArray[np.float32]:
        """Put batches through the network.

        Shapes:
            returns: (captions, dim), float32: in the order of the captions that were tokenized.
        """
        left = deque(batches)
        if len(self._networks) == 1:
            done = self._empty(left, self._networks[0], self._devices[0])
        else:
            with ThreadPoolExecutor(len(self._networks)) as pool:
                workers = [
                    pool.submit(self._empty, left, network, device)
                    for network, device in zip(self._networks, self._devices, strict=True)
                ]
                done = [part for worker in workers for part in worker.result()]
        embeddings = np.empty((sum(len(rows) for rows, _ in done), self.dim), dtype=np.float32)
        for rows, values in done:
            embeddings[rows] = values.float().cpu().numpy()
        return embeddings

    def encode(self, captions: Sequence[str], *, batch_tokens: int = 0) -> NDArray[np.float32]:
        """Tokenize and embed.

        Shapes:
            returns: (captions, dim), float32: in the order of the captions.
        """
        return self.embed(self.tokenize(pa.array(captions, pa.large_string()), batch_tokens=batch_tokens))

    @torch.inference_mode()
    def _empty(
        self, left: deque[Batch], network: nn.Module, device: torch.device
    ) -> list[tuple[NDArray[np.int64], Tensor]]:
        """Take batches, the longest first, until there are none; what they become stays on the device."""
        done = []
        while left:
            try:
                batch = left.pop()
            except IndexError:  # another device was quicker
                break
            try:
                # The network adds to the features that it is given; the batch's own stay as they are.
                features = network(batch_to_device(dict(batch.features), device))
            except BaseException:
                left.clear()  # so that the other devices stop, too
                raise
            done.append((batch.rows, features["sentence_embedding"][:, : self.dim]))
        return done


def _engine(model: SentenceTransformer, prompt: str) -> tuple[Batcher, nn.Module]:
    """What makes batches for the model, and what takes them: the quickest way that gives what ``encode`` gives."""
    if averages_words(model):
        words: Any = model[0]
        cuts = _library_version() >= _CUTS_WORD_VECTORS_SINCE
        max_words = words.max_seq_length if cuts else np.iinfo(np.int64).max
        return WordBatches(words, prompt, max_words=max_words), WordBags(model).to(model.device).eval()
    for batcher in (PaddedBatches, StaticBatches):
        if batcher.fits(model):
            return batcher(model, prompt), model
    return LibraryBatches(model, prompt), model


def _cut_at(max_tokens: int, model: SentenceTransformer, source: TeacherSource) -> None:
    if source.kind == "word-vectors" and _library_version() < _CUTS_WORD_VECTORS_SINCE:
        raise ProtoRKDError(
            "--max-tokens must be 0 for word vectors, which sentence-transformers cuts off only since 6.2; "
            f"got {max_tokens}. Leave it out, or upgrade sentence-transformers."
        )
    limit = model.max_seq_length
    if limit and max_tokens > limit:
        raise ProtoRKDError(f"--max-tokens must be at most the teacher's own limit, {limit}; got {max_tokens}.")
    model.max_seq_length = max_tokens


def _library_version() -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version("sentence-transformers").split(".")[:2])


def load_model(source: TeacherSource, *, device: str = "cpu") -> SentenceTransformer:
    """Load a teacher as the library has it, without what it may have for pictures.

    Raises:
        ProtoRKDError: it cannot be loaded.
    """
    return _text_route(_load(source, device))


def _load(source: TeacherSource, device: str) -> SentenceTransformer:
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        # Both ways of loading draw bars of their own on stderr.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            if source.kind == "word-vectors":
                return _word_embeddings(source, device)
            warnings.simplefilter("ignore", FutureWarning)  # old model folders name their modules by former paths
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
    """Average of word vectors: what ``average_word_embeddings_glove.6B.300d`` is, from GloVe's own text file."""
    passed_over = _Counter()
    logger = logging.getLogger(WordEmbeddings.__module__)
    logger.addHandler(passed_over)
    try:
        try:
            words, passed_over.count = _read_quickly(source)
        except ValueError:  # whatever is odd about it, the library settles what it means
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
