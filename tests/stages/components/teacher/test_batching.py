"""Batches of captions: each caption once, near-equal lengths, and the embeddings that the library's encode gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.module import Module
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from torch import Tensor
from workbench import VECTOR_DIM, WORDS

import stages.components.teacher.loading
from stages.components.teacher.batching import LibraryBatches, PaddedBatches, StaticBatches, token_batches
from stages.components.teacher.identity import TeacherSource, find_teacher
from stages.components.teacher.loading import load_model
from stages.components.teacher.teacher import Teacher
from stages.components.teacher.word_averages import WordBatches

Modules = Callable[[Path], list[Any]]

CAPTIONS = [
    "red circle",
    "",
    "a green square beside a yellow stripe",
    "one two three four five six seven eight nine",
    "blue",
    " ".join(["black"] * 60),
    "red",
    "Red   CIRCLE!",
    "no word of it is known",
    "http://localhost/red.jpg",
    "/etc/hostname",
]
TOLERANCE = 1e-5


class _Doubled(Module):
    """A module that the library does not know, such as a model brings along."""

    config_keys: list[str] = []  # noqa: RUF012 - as sentence-transformers declares it

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        features["sentence_embedding"] = 2 * features["sentence_embedding"]
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("this model is never saved")


class _Old(torch.nn.Module):
    """An input module of the kind that old models have: it tokenizes, and knows nothing of preprocessing."""

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        lengths = [[float(len(text)), float(text.count("e"))] for text in texts]
        return {"lengths": torch.tensor(lengths)}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        features["sentence_embedding"] = features["lengths"]
        return features

    def get_embedding_dimension(self) -> int:
        return 2


def transformer(folder: Path, *, pads_left: bool = False) -> Transformer:
    module = Transformer(str(folder))
    if pads_left:
        module.tokenizer.padding_side = "left"
    return module


def pooled(mode: Any, *, include_prompt: bool = True, pads_left: bool = False) -> Modules:
    def build(folder: Path) -> list[Any]:
        first = transformer(folder, pads_left=pads_left)
        return [first, Pooling(VECTOR_DIM, pooling_mode=mode, include_prompt=include_prompt)]

    return build


def static(folder: Path) -> list[Any]:
    tokenizer: Any = transformer(folder).tokenizer
    vectors = torch.randn(len(tokenizer), 6, generator=torch.Generator().manual_seed(0))
    return [StaticEmbedding(tokenizer, embedding_weights=vectors), Normalize()]


def two_sides(folder: Path) -> list[Any]:
    return [Router.for_query_document(pooled("max")(folder), pooled("mean")(folder))]


def dense(folder: Path) -> list[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [*pooled("mean")(folder), Dense(VECTOR_DIM, 7), Normalize()]


def teacher_of(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Teacher:
    monkeypatch.setattr(stages.components.teacher.loading, "_load", lambda source, device: model)
    return Teacher(TeacherSource(name="given", path=Path(), kind="sentence-transformers"), **options)


def assert_as_encode(
    modules: list[Any], monkeypatch: pytest.MonkeyPatch, batcher: type[Any], *, prompt: str = "", truncate_dim: int = 0
) -> None:
    model = SentenceTransformer(modules=modules, device="cpu")
    expected = model.encode(CAPTIONS, prompt=prompt or None, truncate_dim=truncate_dim or None, show_progress_bar=False)
    teacher = teacher_of(model, monkeypatch, prompt=prompt, truncate_dim=truncate_dim)
    assert isinstance(teacher._batcher, batcher)
    for batch_tokens in (0, 1, 40):
        given = teacher.encode(CAPTIONS, batch_tokens=batch_tokens)
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, expected, atol=TOLERANCE)


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "max")]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_padded_batches__give_what_encode_gives_by_any_pooling(
    mode: Any, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_as_encode(pooled(mode)(bert_folder), monkeypatch, PaddedBatches)


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
def test_padded_batches__pad_on_the_side_that_the_tokenizer_pads(
    mode: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pooled(mode, pads_left=True)(bert_folder)
    teacher = teacher_of(SentenceTransformer(modules=modules, device="cpu"), monkeypatch)
    [batch] = teacher.tokenize(pa.array(["red", "red circle"]), batch_tokens=100)
    assert batch.features["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.features["input_ids"][0, 0] == modules[0].tokenizer.pad_token_id
    # BERT counts positions from the left, padding included: to be compared, the batches must be the same.
    expected = SentenceTransformer(modules=modules, device="cpu").encode(["red", "red circle"])
    np.testing.assert_allclose(teacher.encode(["red", "red circle"], batch_tokens=100), expected, atol=TOLERANCE)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_padded_batches__leave_the_prompt_out_of_the_pooling_where_the_model_does(
    include_prompt: bool, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pooled("mean", include_prompt=include_prompt)(bert_folder)
    assert_as_encode(modules, monkeypatch, PaddedBatches, prompt="two black ")


@pytest.mark.parametrize("build", [dense, lambda folder: [*pooled("mean")(folder), Normalize()]])
def test_padded_batches__cut_dimensions_after_all_modules(
    build: Modules, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_as_encode(build(bert_folder), monkeypatch, PaddedBatches)
    assert_as_encode(build(bert_folder), monkeypatch, PaddedBatches, truncate_dim=5)


def test_padded_batches__cut_captions_at_max_tokens(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceTransformer(modules=pooled("mean")(bert_folder), device="cpu")
    teacher = teacher_of(model, monkeypatch, max_tokens=5)
    assert max(batch.features["input_ids"].shape[1] for batch in teacher.tokenize(pa.array(CAPTIONS))) == 5
    expected = model.encode(CAPTIONS, show_progress_bar=False)  # the model was told of the limit
    np.testing.assert_allclose(teacher.encode(CAPTIONS), expected, atol=TOLERANCE)


def test_padded_batches__follow_the_defaults_of_the_model(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceTransformer(
        modules=pooled("mean")(bert_folder),
        device="cpu",
        prompts={"clip": "blue "},
        default_prompt_name="clip",
        truncate_dim=3,
    )
    teacher = teacher_of(model, monkeypatch)
    assert teacher.dim == 3
    np.testing.assert_allclose(teacher.encode(CAPTIONS), model.encode(CAPTIONS), atol=TOLERANCE)


def test_padded_batches__have_no_padding_where_lengths_are_common(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_of(SentenceTransformer(modules=pooled("mean")(bert_folder), device="cpu"), monkeypatch)
    captions = ["red", "red circle", "blue red circle"] * 20
    batches = teacher.tokenize(pa.array(captions), batch_tokens=100)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(60))
    assert all(batch.features["attention_mask"].all() for batch in batches)
    assert all(batch.features["input_ids"].numel() <= 100 for batch in batches)


def test_library_batches__serve_models_without_a_fast_tokenizer(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pooled("mean")(bert_folder)
    monkeypatch.setattr(type(modules[0].tokenizer), "is_fast", False)
    assert_as_encode(modules, monkeypatch, LibraryBatches, prompt="blue ")


@pytest.mark.parametrize(
    "build",
    [
        lambda folder: [*pooled("mean")(folder), _Doubled()],
        two_sides,
        lambda folder: [BoW(list(WORDS))],
        lambda folder: [_Old()],
    ],
    ids=["module of its own", "router for query and document", "bag of words", "module of old"],
)
def test_library_batches__serve_models_whose_modules_are_not_known(
    build: Modules, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_as_encode(build(bert_folder), monkeypatch, LibraryBatches)
    assert_as_encode(build(bert_folder), monkeypatch, LibraryBatches, truncate_dim=2)


def test_static_batches__give_what_encode_gives(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_encode(static(bert_folder), monkeypatch, StaticBatches)
    assert_as_encode(static(bert_folder), monkeypatch, StaticBatches, prompt="blue ", truncate_dim=4)


@pytest.mark.parametrize("budget", [1, 7, 16, 1000])
def test_token_batches__take_every_row_once_within_the_budget(budget: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, size=50)
    batches = list(token_batches(counts, batch_tokens=budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(50))
    assert all(len(rows) == 1 or len(rows) * counts[rows].max() <= budget for rows in batches)


def test_token_batches__put_a_row_beyond_the_budget_alone() -> None:
    batches = list(token_batches(np.array([3, 90, 3, 80]), batch_tokens=10))
    assert [rows.tolist() for rows in batches] == [[0, 2], [3], [1]]


def test_token_batches__are_as_large_as_the_budget_allows() -> None:
    assert [len(rows) for rows in token_batches(np.full(10, 4), batch_tokens=16)] == [4, 4, 2]


def test_token_batches__of_nothing_are_none() -> None:
    assert list(token_batches(np.zeros(0, dtype=np.int64), batch_tokens=8)) == []


def test_token_batches__end_where_the_length_changes_if_they_are_half_full() -> None:
    assert [len(rows) for rows in token_batches(np.array([4] * 3 + [5] * 3), batch_tokens=20)] == [3, 3]
    assert [len(rows) for rows in token_batches(np.array([4] * 2 + [5] * 3), batch_tokens=20)] == [4, 1]


def test_token_batches__end_where_the_length_changes_if_there_is_enough_for_a_gpu() -> None:
    for each, sizes in ((3000, [3000, 3000]), (2000, [4000])):  # 12,000 tokens, and 8,000
        counts = np.array([4] * each + [5] * each)
        assert [len(rows) for rows in token_batches(counts, batch_tokens=65536)] == sizes


@pytest.mark.parametrize("by", ["tokenizers", "preprocess", "library"])
def test_batches__count_captions_that_are_cut_by_the_tokenizers_own_lengths(
    by: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(find_teacher(str(bert_folder)))
    if by == "preprocess":
        monkeypatch.setattr("stages.components.teacher.tokenizing._copy", lambda model: None)
    batcher = LibraryBatches(model, "blue ") if by == "library" else PaddedBatches(model, "blue ")
    captions = [" ".join(["red"] * num) for num in (0, 1, 28, 29, 30, 60)]  # with [CLS], [SEP] and the prompt: 3 more
    batches = batcher(pa.array(captions), batch_tokens=64)
    cut = {len(captions[row].split()) for batch in batches for row in batch.rows if batch.num_cut == len(batch.rows)}
    assert sum(batch.num_cut for batch in batches) == 2
    assert cut == {30, 60}


def test_batches__count_captions_whose_words_are_cut(word_vectors: Path) -> None:
    model: Any = load_model(find_teacher(str(word_vectors)))
    batches = WordBatches(model[0], "", max_words=2)(pa.array(["red", "red blue", "red blue red"]), batch_tokens=64)
    assert [batch.num_cut for batch in batches] == [1]
