"""Token ids of the tokenizers library alone: those of the model's own preprocess, token for token, or not used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import (
    NormalizedString,
    PreTokenizedString,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, PreTokenizer
from transformers import PreTrainedTokenizerFast
from workbench import VECTOR_DIM

from stages.components.teacher.tokenizing import CaptionTokenizer, Tokens

CAPTIONS = [
    "a red circle beside a blue square",
    "",
    "   ",
    "Two  CATS\tand\na dog.",
    "naïve café “quoted” … ½ ﬁ",
    "한국어 日本語 русский العربية",
    "🚲🚲 \u200b zero\u0000width",
    "[SEP] </s> <s> [PAD]",
    "red " * 90,
    "x" * 250,
]


def bpe() -> PreTrainedTokenizerFast:
    """Bytes, as GPT-2's and RoBERTa's are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        CAPTIONS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=ByteLevel.alphabet())
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def bare_bpe() -> PreTrainedTokenizerFast:
    """Return the same without special tokens: of an empty caption nothing is left."""
    tokenizer = bpe()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def unigram() -> PreTrainedTokenizerFast:
    """Pieces with probabilities, as XLM-R's are; token types of which not all are 0, as XLNet's are."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = Metaspace()
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    tokenizer.train_from_iterator(
        CAPTIONS, trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 </s>:0 <s>:2", special_tokens=[("</s>", 1), ("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture
def model_with(bert_folder: Path) -> Callable[..., SentenceTransformer]:
    """Return a model whose tokenizer is another; its network is not asked for anything here."""

    def make(tokenizer: PreTrainedTokenizerFast | None = None, **options: Any) -> SentenceTransformer:
        first = Transformer(str(bert_folder), **options)
        if tokenizer is not None:
            tokenizer.model_max_length = 32
            first.processor = tokenizer
        return SentenceTransformer(modules=[first, Pooling(VECTOR_DIM)], device="cpu")

    return make


def left_padded(model: SentenceTransformer) -> SentenceTransformer:
    tokenizer: Any = model.tokenizer
    tokenizer.padding_side = "left"
    return model


KINDS: dict[str, Callable[[Any], SentenceTransformer]] = {
    "wordpiece": lambda make: make(),
    "wordpiece, padded left": lambda make: left_padded(make()),
    "wordpiece, lowered": lambda make: make(do_lower_case=True),
    "bytes": lambda make: make(bpe()),
    "bytes, bare": lambda make: make(bare_bpe()),
    "unigram": lambda make: make(unigram()),
    "without a limit": lambda make: unlimited(make(bpe())),
}


def unlimited(model: SentenceTransformer) -> SentenceTransformer:
    model.max_seq_length = int(1e30)  # what transformers writes for none
    return model


def assert_as_preprocess(captions: Tokens, model: SentenceTransformer, prompt: str) -> None:
    """Caption by caption, so that nothing is padded."""
    starts = np.cumsum(captions.lengths) - captions.lengths
    for caption, start, length in zip(CAPTIONS, starts, captions.lengths, strict=True):
        expected = model.preprocess([caption], prompt=prompt or None)
        tensors = {name for name, value in expected.items() if hasattr(value, "numpy")}
        assert tensors == {*captions.flat, "attention_mask"}
        assert expected["attention_mask"].sum() == length
        for name, values in captions.flat.items():
            assert values[start : start + length].tolist() == expected[name][0].tolist(), caption
        assert captions.others == {name: value for name, value in expected.items() if name not in tensors}


@pytest.mark.parametrize("limit", [0, 7])
@pytest.mark.parametrize("prompt", ["", "A picture of: "])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens__are_those_of_preprocess(kind: str, prompt: str, limit: int, model_with: Any) -> None:
    model = KINDS[kind](model_with)
    if limit:
        model.max_seq_length = limit
    tokenizer = CaptionTokenizer(model, prompt)
    assert tokenizer._backend is not None
    given = tokenizer(CAPTIONS)
    assert all(values.dtype == np.int64 for values in given.flat.values())
    assert_as_preprocess(given, model, prompt)
    assert given.lengths.max() == {0: 32, 7: 7}[limit] or kind == "without a limit"


def test_tokens__come_in_the_order_of_many_captions(model_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.components.teacher.tokenizing._ENCODED_AT_A_TIME", 3)
    model = model_with(bpe())
    assert_as_preprocess(CaptionTokenizer(model, "")(CAPTIONS), model, "")


def test_tokenizer__leaves_the_models_own_as_it_is(model_with: Any) -> None:
    model = model_with(bpe())
    backend = model.tokenizer.backend_tokenizer
    tokenizer = CaptionTokenizer(model, "")
    before = backend.to_str()
    tokenizer(CAPTIONS)
    assert backend.to_str() == before
    backend.enable_truncation(3)  # nor does it depend on what others make of it
    backend.enable_padding(length=50)
    given = tokenizer(CAPTIONS)
    assert backend.truncation["max_length"] == 3
    assert_as_preprocess(given, model, "")


def test_tokenizer__asks_the_library_where_it_changes_captions_first(
    model_with: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quiet_log: None
) -> None:
    model = model_with()
    real = model.preprocess

    def stripped(texts: list[str], **options: Any) -> Any:
        return real([text.replace("-", "") for text in texts], **options)

    monkeypatch.setattr(model, "preprocess", stripped)
    with caplog.at_level("INFO"):
        tokenizer = CaptionTokenizer(model, "")
    assert tokenizer._backend is None
    assert "captions are tokenized by sentence-transformers" in caplog.text
    assert_as_preprocess(tokenizer(CAPTIONS), model, "")


class _Halves:
    """A part of a tokenizer that is written in Python, and therefore cannot be copied."""

    def pre_tokenize(self, pretok: PreTokenizedString) -> None:
        pretok.split(lambda _number, text: self._split(text))

    def _split(self, text: NormalizedString) -> list[NormalizedString]:
        middle = len(str(text)) // 2
        return [text[:middle], text[middle:]] if middle else [text]


def test_tokenizer__asks_the_library_where_it_cannot_be_copied(model_with: Any) -> None:
    tokenizer = bpe()
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(_Halves())
    model = model_with(tokenizer)
    found = CaptionTokenizer(model, "")
    assert found._backend is None
    assert_as_preprocess(found(CAPTIONS), model, "")
