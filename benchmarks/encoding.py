"""Time all of stage one, from manifest to hashed shards, against the library's ``encode`` in batches of 32 captions."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer, WordEmbeddings
from torch import nn
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import Comparison, Limit, compare_time
from benchmarks.scale import write_manifest, write_vectors
from benchmarks.settings import Settings
from cli import cli
from data_schemas.pair_sources.text.manifest_table import read_manifest
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.teacher import Teacher

_BASELINE = "encode in batches of 32"
_TRANSFORMER_CAPTIONS = 4000
_WORD_ROWS = 100_000
_FP32_BAR, _BF16_BAR, _WORDS_BAR = 1.3, 2.2, 3.0
_MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
}


def compare(settings: Settings) -> list[Comparison]:
    """Compare a transformer in fp32 and in bf16, and word vectors; both sides load their model.

    Captions are real ones where there are any, and the transformer is MiniLM where it is installed; else captions of
    made-up words, and a network of MiniLM's shape with random weights.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = settings.data / "coco22k" / "train.tsv" if settings.data else None
        vectors = settings.data / "glove" / "glove.6B.50d.8k.txt" if settings.data else folder / "vectors.txt"
        if settings.data is None:
            write_vectors(vectors)
        generated = folder / "pairs.tsv"
        write_manifest(generated, _TRANSFORMER_CAPTIONS if real is None else 1)
        teacher = settings.teacher or _make_minilm(folder / "minilm", read_manifest(real or generated))
        bench = _Bench(folder, settings.num_pairs)
        transformers = [
            bench.transformer(real or generated, teacher, precision="fp32", bar=_FP32_BAR),
            bench.transformer(real or generated, teacher, precision="bf16", bar=_BF16_BAR),
        ]
        many = folder / "many.tsv"
        if real is None:
            write_manifest(many, _WORD_ROWS)
        else:
            _write_variants(real, many)
        return [*transformers, bench.words(many, vectors)]


class _Bench:
    """Runs both ways in turn.

    Args:
        folder: Folder for the store.
        num_pairs: Timed pairs of each comparison.
    """

    def __init__(self, folder: Path, num_pairs: int) -> None:
        self._store = folder / "store"
        self._num_pairs = num_pairs

    def transformer(self, manifest: Path, teacher: Path, *, precision: str, bar: float) -> Comparison:
        """Compare a transformer; the limit is its matrix products in the same precision, without padding."""

        def load() -> SentenceTransformer:
            return SentenceTransformer(str(teacher), device="cpu", local_files_only=True)

        captions = _captions(manifest, _TRANSFORMER_CAPTIONS)
        batches = Teacher(find_teacher(str(teacher))).tokenize(captions)
        tokens = sum(int(batch.features["attention_mask"].sum()) for batch in batches)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        options = ("--teacher-precision", precision, "--limit", _TRANSFORMER_CAPTIONS)
        return compare_time(
            f"encode-teacher, transformer in {precision}, {len(captions)} captions",
            baseline_name=_BASELINE,
            baseline=_encoding(load, captions),
            ours=self._stage(manifest, teacher, *options),
            num_pairs=self._num_pairs,
            bar=bar,
            limit=Limit("its matrix products", _products(load(), tokens, dtype)),
        )

    def words(self, manifest: Path, vectors: Path) -> Comparison:
        """Compare word vectors; the limit is the means of the vectors alone."""

        def load() -> SentenceTransformer:
            words = WordEmbeddings.from_text_file(str(vectors))
            return SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())], device="cpu")

        captions = _captions(manifest, 0)
        teacher = Teacher(find_teacher(str(vectors)))
        batches = teacher.tokenize(captions)
        return compare_time(
            f"encode-teacher, word vectors, {len(captions)} captions",
            baseline_name=_BASELINE,
            baseline=_encoding(load, captions),
            ours=self._stage(manifest, vectors),
            num_pairs=self._num_pairs,
            bar=_WORDS_BAR,
            limit=Limit("the means of vectors", lambda: teacher.embed(batches)),
        )

    def _stage(self, manifest: Path, teacher: Path, *options: object) -> Callable[[], object]:
        """Make a function that runs the command in this process, from scratch in every call."""
        words = ["encode-teacher", "--manifest", manifest, "--teacher", teacher, "--store", self._store, *options]

        def run() -> None:
            result = CliRunner().invoke(cli, [*map(str, words), "--force", "--device", "cpu"], catch_exceptions=False)
            assert result.exit_code == 0, result.output

        run()
        return run


def _encoding(load: Callable[[], SentenceTransformer], captions: pa.Array) -> Callable[[], object]:
    texts = captions.to_pylist()
    load().encode(texts[:64], show_progress_bar=False)
    return lambda: load().encode(texts, batch_size=32, show_progress_bar=False)


@torch.inference_mode()
def _products(model: SentenceTransformer, tokens: int, dtype: torch.dtype) -> Callable[[], object]:
    """Make a function that multiplies blocks of about a batch's tokens with every weight of the encoder's layers."""
    linears = [
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "pooler" not in name
    ]
    pairs = [(linear.weight.to(dtype), torch.randn(1024, linear.in_features, dtype=dtype)) for linear in linears]

    @torch.inference_mode()
    def run() -> None:
        for start in range(0, tokens, 1024):
            for weight, values in pairs:
                nn.functional.linear(values[: tokens - start], weight)

    return run


def _captions(manifest: Path, limit: int) -> pa.Array:
    captions: pa.Array = read_manifest(manifest, limit=limit).table["caption"].unique()
    return captions


def _write_variants(manifest: Path, path: Path) -> None:
    """Write each caption five times, each time with another word behind it."""
    captions = read_manifest(manifest, limit=_WORD_ROWS // 5).table["caption"].to_pylist()
    lines = [f"{number}.jpg\t{caption} {number}" for number in range(5) for caption in captions if '"' not in caption]
    path.write_text("\n".join(["filepath\ttitle", *lines]) + "\n")


def _make_minilm(folder: Path, manifest: Any) -> Path:
    """Save a BERT of MiniLM's shape with random weights, whose vocabulary has the captions' words."""
    words = sorted({word for caption in manifest.table["caption"].to_pylist() for word in caption.lower().split()})
    minilm: dict[str, Any] = dict(_MINILM)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words][: _MINILM["vocab_size"]]
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder / "plain")
    transformers.BertModel(transformers.BertConfig(**minilm)).save_pretrained(folder / "plain")
    modules = [Transformer(str(folder / "plain")), Pooling(_MINILM["hidden_size"]), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"
