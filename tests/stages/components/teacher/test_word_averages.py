"""Teachers that average word vectors: by columns of words what the library finds caption by caption."""

import random
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CNN, Dense, Normalize, Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

import stages.components.teacher.loading
import stages.components.teacher.teacher
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.teacher import Teacher
from stages.components.teacher.word_averages import WordBatches, averages_words

VOCABULARY = ["red", "Blue", "u.s.", "don't", "σς", "straße", "i̇", "the", "\u200b", "'", "zwei", "犬", "🐕", "a\u0301"]
PIECES = [
    *VOCABULARY,
    "RED",
    "blue",
    "BLUE",
    "The",
    "of",
    "U.S.",
    "ΣΣ",
    "STRASSE",
    "İ",
    "ﬀ",
    "ZWEI",
    "dog",
    "\x00",
    "é",
]
SPACES = [code for code in map(chr, range(sys.maxunicode + 1)) if code.isspace()]
NEARLY_SPACES = ["\u200b", "\u2060", "\ufeff", "\u180e", "\u00ad", "\x1b", "\x08", "\u200d"]


def words(*, lower: bool = False, stop_words: tuple[str, ...] = ("the", "of"), max_words: int = 1000) -> WordEmbeddings:
    tokenizer = WhitespaceTokenizer(VOCABULARY, stop_words=stop_words, do_lower_case=lower)
    vectors = np.random.default_rng(0).normal(size=(len(VOCABULARY), 6))
    return WordEmbeddings(tokenizer, vectors, max_seq_length=max_words)


def teacher_of(modules: list[Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Teacher:
    model = SentenceTransformer(modules=modules, device="cpu")
    monkeypatch.setattr(stages.components.teacher.loading, "_load", lambda source, device: model)
    return Teacher(TeacherSource(name="given", path=Path(), kind="sentence-transformers"), **options)


def hostile_captions(seed: int, num: int) -> list[str]:
    """Known, unknown and stop words with punctuation around them, parted by every kind of space and of no space."""
    rng = random.Random(seed)

    def piece() -> str:
        ends = ["".join(rng.choices(string.punctuation, k=rng.randrange(3))) for _ in range(2)]
        return ends[0] + rng.choice(PIECES) + ends[1]

    def caption() -> str:
        cuts = [rng.choice(SPACES + NEARLY_SPACES + [" "] * 30 + [""]) * rng.randint(1, 2) for _ in range(9)]
        return "".join(cut + piece() for cut in cuts[: rng.randrange(9)]) + rng.choice(["", *cuts])

    return ["", " ", "\u3000", *(caption() for _ in range(num))]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("stop_words", [(), ("the", "of", "red")])
@pytest.mark.parametrize("prompt", ["", "red the ", "BL"])
def test_word_batches__give_what_encode_gives_for_hostile_captions(
    lower: bool, stop_words: tuple[str, ...], prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [words(lower=lower, stop_words=stop_words), Pooling(6, pooling_mode="mean")]
    teacher = teacher_of(modules, monkeypatch, prompt=prompt)
    assert isinstance(teacher._batcher, WordBatches)
    captions = hostile_captions(seed=len(prompt), num=1500)
    model = SentenceTransformer(modules=modules, device="cpu")
    expected = model.encode(captions, prompt=prompt or None, show_progress_bar=False)
    assert len(np.unique(expected, axis=0)) > 100
    np.testing.assert_allclose(teacher.encode(captions), expected, atol=1e-6)


def test_split__parts_captions_at_the_code_points_at_which_python_does() -> None:
    codes = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    parts = pc.utf8_split_whitespace(pa.array([f"x{code}y" for code in codes], pa.large_string()))
    numbers = pc.list_value_length(parts).to_pylist()
    assert [code for code, number in zip(codes, numbers, strict=True) if number == 2] == SPACES
    assert [len(f"x{code}y".split()) for code in codes] == numbers


def test_word_batches__cut_off_known_words_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    if stages.components.teacher.teacher._library_version() < (6, 2):
        pytest.skip("before 6.2 the library did not cut word vectors off")
    modules = [words(max_words=3), Pooling(6, pooling_mode="mean")]
    captions = ["red of dog zwei 犬 red red", "red", "", "zwei zwei zwei"]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(captions, show_progress_bar=False)
    teacher = teacher_of(modules, monkeypatch)
    np.testing.assert_allclose(teacher.encode(captions), expected, atol=1e-6)
    np.testing.assert_allclose(teacher.encode(captions[:1]), teacher.encode(["red zwei 犬"]), atol=1e-6)


def test_word_batches__keep_what_stands_behind_the_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [words(), Pooling(6, pooling_mode="mean"), Dense(6, 5), Normalize()]
    captions = hostile_captions(seed=7, num=50)
    expected = SentenceTransformer(modules=modules, device="cpu").encode(captions, truncate_dim=3)
    given = teacher_of(modules, monkeypatch, truncate_dim=3).encode(captions)
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_word_batches__of_no_captions_are_none() -> None:
    assert WordBatches(words(), "", max_words=9)(pa.array([], pa.large_string()), batch_tokens=0) == []


@pytest.mark.parametrize(
    "modules",
    [
        lambda: [words(), Pooling(6, pooling_mode="max")],
        lambda: [words(), Pooling(6, pooling_mode=("mean", "max"))],
        lambda: [words(), CNN(6, out_channels=2, kernel_sizes=[1]), Pooling(4, pooling_mode="mean")],
    ],
)
def test_averages_words__is_for_the_plain_mean_alone(modules: Any) -> None:
    model = SentenceTransformer(modules=modules(), device="cpu")
    assert not averages_words(model)


def test_averages_words__is_not_for_a_tokenizer_of_another_kind() -> None:
    class Own(WhitespaceTokenizer):
        pass

    first = WordEmbeddings(Own(VOCABULARY), torch.ones(len(VOCABULARY), 6))
    assert not averages_words(SentenceTransformer(modules=[first, Pooling(6)], device="cpu"))
