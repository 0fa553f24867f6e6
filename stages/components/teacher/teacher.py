"""The frozen teacher: a sentence-transformers model in eval mode that embeds captions as text."""

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import nn

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.compute.precision import full_float32
from stages.components.embeddings.nearness import nearness, tell_nearness
from stages.components.teacher.batching import Batch, Batcher, LibraryBatches, PaddedBatches, StaticBatches
from stages.components.teacher.encoding_options import PRECISIONS
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.loading import load_model
from stages.components.teacher.network import TeacherNetwork
from stages.components.teacher.precision import set_precision
from stages.components.teacher.processes import TeacherProcesses
from stages.components.teacher.word_averages import WordBags, WordBatches, averages_words

_CUTS_WORD_VECTORS_SINCE = (6, 2)
_POOLED_WITHOUT_PROMPT = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")
_CPU_BATCH_TOKENS = 1024
_GPU_BATCH_TOKENS = 65536  # most batches are smaller, since they end where lengths change (`token_batches`)
_GPU_BATCH_NUMBERS = 1 << 26  # of one hidden state: 256 MB in fp32; a layer holds a dozen of them


class Teacher:
    """A frozen teacher that embeds captions as the model's own ``encode`` does, up to rounding.

    With several devices it is used as a context: leaving it ends their processes. ``limit`` is the number of tokens at
    which it cuts captions, None for none.

    Args:
        source: Model to load.
        max_tokens: Longest caption in tokens, after which the rest is cut off; 0 for the model's own limit.
        prompt: Text put before each caption.
        truncate_dim: Number of dimensions to keep, from the first on; 0 for all.
        precision: Precision of the network: "fp32", "bf16" or "fp16".
        sample: Captions on which fewer bits than fp32 are compared with it, for ``nearness``.
        devices: Devices such as "cpu" or "cuda:0"; several have a process each, and share the batches.

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
        if precision not in PRECISIONS:
            raise ProtoRKDError(f"A teacher's precision must be one of {', '.join(PRECISIONS)}; got {precision}.")
        options = {
            "source": source,
            "max_tokens": max_tokens,
            "prompt": prompt,
            "truncate_dim": truncate_dim,
            "precision": precision,
            "sample": sample,
        }
        shared = len(devices) > 1
        model = load_model(source, device="cpu" if shared else devices[0])
        model.eval()
        if max_tokens:
            _cut_at(max_tokens, model, source)
        full_dim = model.get_embedding_dimension()
        if full_dim is None or truncate_dim > full_dim:
            raise ProtoRKDError(f"--truncate-dim must be at most the teacher's width, {full_dim}; got {truncate_dim}.")
        self.dim = truncate_dim or full_dim
        self.limit = model.max_seq_length
        _tell_prompts(model, prompt, source)
        prompt = prompt or model.prompts.get(model.default_prompt_name or "") or ""
        _check_pooling_of_prompt(model, prompt, source)
        self._batcher = _make_batcher(model, prompt)
        self._batch_tokens = _batch_tokens(model, torch.device(devices[0]))
        self._network: TeacherNetwork | TeacherProcesses
        if shared:
            model.to("meta")  # its weights are for the processes
            self._network = TeacherProcesses(devices, options, dim=self.dim, num_threads=torch.get_num_threads())
            self.nearness = self._network.nearness() if precision != "fp32" else {}
        else:
            self.nearness = self._place(model, torch.device(devices[0]), precision, sample)
        if self.nearness:
            tell_nearness(self.nearness, model="teacher", precision=precision, noun="caption")

    def __enter__(self) -> "Teacher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if isinstance(self._network, TeacherProcesses):
            self._network.finish() if kind is None else self._network.stop()

    def tokenize(self, captions: pa.Array, *, batch_tokens: int = 0) -> list[Batch]:
        """Tokenize captions for `embed`, on the CPU; another thread may do so while batches are embedded.

        Args:
            captions: Captions, as strings.
            batch_tokens: Tokens in one batch, padding included; a longer caption makes a batch of its own. 0 takes
                what suits the device.
        """
        return self._batcher(captions, batch_tokens=batch_tokens or self._batch_tokens)

    @full_float32()
    def start(
        self, batches: Sequence[Batch], *, advance: Callable[[int], None] = lambda _: None
    ) -> Callable[[], NDArray[np.float32]]:
        """Launch batches on the network, without waiting for GPUs or other processes.

        Args:
            batches: Batches, as `tokenize` returns them.
            advance: Called with the number of captions of each batch that is done.

        Returns:
            A function that waits for the embeddings and returns them, as `embed` does, from any thread.
        """
        return self._network.start(batches, advance=advance)

    def embed(self, batches: Sequence[Batch]) -> NDArray[np.float32]:
        """Embed batches.

        Shapes:
            returns: (captions, dim), float32: in the order of the captions that were tokenized.
        """
        return self.start(batches)()

    def encode(self, captions: Sequence[str], *, batch_tokens: int = 0) -> NDArray[np.float32]:
        """Tokenize and embed captions.

        Shapes:
            returns: (captions, dim), float32: in the order of the captions.
        """
        return self.embed(self.tokenize(pa.array(captions, pa.large_string()), batch_tokens=batch_tokens))

    def _place(
        self, model: SentenceTransformer, device: torch.device, precision: str, sample: Sequence[str]
    ) -> dict[str, float]:
        """Set up the network in this process; return how near it comes to fp32."""
        network = _make_network(model)
        self._network = TeacherNetwork(network, device, dim=self.dim)
        exact = self.encode(sample) if precision != "fp32" else None
        if precision != "fp32":
            set_precision(model, precision, device)
            network = _make_network(model)
        self._network = TeacherNetwork(network, device, dim=self.dim)
        return nearness(self.encode(sample), exact, noun="caption") if exact is not None and len(exact) else {}


def _make_batcher(model: SentenceTransformer, prompt: str) -> Batcher:
    """Return the fastest batcher whose embeddings equal those of the model's ``encode``."""
    if averages_words(model):
        words: Any = model[0]
        cuts = _library_version() >= _CUTS_WORD_VECTORS_SINCE
        return WordBatches(words, prompt, max_words=words.max_seq_length if cuts else np.iinfo(np.int64).max)
    for batcher in (PaddedBatches, StaticBatches):
        if batcher.fits(model):
            return batcher(model, prompt)
    return LibraryBatches(model, prompt)


def _make_network(model: SentenceTransformer) -> nn.Module:
    """Return the network that takes the batches."""
    return WordBags(model).to(model.device).eval() if averages_words(model) else model


def _batch_tokens(model: SentenceTransformer, device: torch.device) -> int:
    """Return the default number of tokens in a batch: a CPU's cache is small; a GPU needs large batches."""
    if device.type == "cpu":
        return _CPU_BATCH_TOKENS
    config = getattr(model[0], "config", None)
    width = max(model.get_embedding_dimension() or 1, getattr(config, "hidden_size", 1))
    return min(_GPU_BATCH_TOKENS, _GPU_BATCH_NUMBERS // width)


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


def _tell_prompts(model: SentenceTransformer, prompt: str, source: TeacherSource) -> None:
    """Log that a model was trained with prompts, where none is asked for."""
    registered = {name: text for name, text in model.prompts.items() if text}
    if registered and not prompt and not model.default_prompt_name:
        listed = ", ".join(f"{name} {text!r}" for name, text in registered.items())
        log.info(
            "%s has prompts, and none is put before texts: --prompt-name of encode-teacher, and --query-prompt-name of "
            "search, evaluate and export, take one of %s",
            source.name,
            listed,
        )


def _check_pooling_of_prompt(model: SentenceTransformer, prompt: str, source: TeacherSource) -> None:
    """Refuse prompts for the models whose pooling the library corrects by their name on the hub alone."""
    is_corrected = source.location.partition("@")[0] in _POOLED_WITHOUT_PROMPT
    if prompt and is_corrected and any(getattr(module, "include_prompt", False) for module in model):
        raise ProtoRKDError(
            f"A prompt must go with a model whose pooling is known; got {source.name}, whose files do not say that it "
            "leaves prompts out of the mean. Save it so that they do, and pass that folder: model = "
            f"SentenceTransformer({source.location.partition('@')[0]!r}); model.save(FOLDER)."
        )


def _library_version() -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version("sentence-transformers").split(".")[:2])
