"""The numbers that a teacher computes with: fewer bits where asked for, and what that changes said."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.components.embeddings.nearness import nearness
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.precision import draw_sample
from stages.components.teacher.teacher import Teacher
from stages.components.teacher.word_averages import WordBatches

CAPTIONS = ["red circle", "blue", "a green square beside a yellow stripe", "", "one two three"]


def test_bf16__gives_nearly_the_same_embeddings_in_fp32(bert_folder: Path) -> None:
    exact = Teacher(find_teacher(str(bert_folder))).encode(CAPTIONS)
    coarse = Teacher(find_teacher(str(bert_folder)), precision="bf16", sample=CAPTIONS[:3])
    given = coarse.encode(CAPTIONS)
    assert given.dtype == np.float32
    assert 1e-4 < np.abs(given - exact).max() < 0.1
    assert coarse.nearness["fp32_cosine_captions"] == 3
    assert 0.99 < coarse.nearness["fp32_cosine_min"] <= coarse.nearness["fp32_cosine_mean"] < 1


def test_bf16__turns_the_network_alone_and_pools_in_fp32(bert_folder: Path) -> None:
    teacher: Any = Teacher(find_teacher(str(bert_folder)), precision="bf16")
    network = teacher._network._network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    seen: list[torch.dtype] = []
    network[1].register_forward_hook(lambda _module, _given, features: seen.append(features["token_embeddings"].dtype))
    network(network.preprocess(["red"]))
    assert seen == [torch.float32]


def test_bf16__rounds_word_vectors(word_vectors: Path) -> None:
    exact = Teacher(find_teacher(str(word_vectors))).encode(["red"])
    coarse = Teacher(find_teacher(str(word_vectors)), precision="bf16", sample=["red", "unheard"])
    assert isinstance(coarse._batcher, WordBatches)
    np.testing.assert_array_equal(coarse.encode(["red"]), torch.from_numpy(exact).bfloat16().float().numpy())
    assert coarse.nearness["fp32_cosine_min"] > 0.999  # the zero vector of both counts as the same


def test_fp16__is_refused_without_a_gpu(bert_folder: Path) -> None:
    with pytest.raises(ProtoRKDError, match="--teacher-precision must be fp32 or bf16 on cpu; got fp16"):
        Teacher(find_teacher(str(bert_folder)), precision="fp16")


def test_fp32__says_nothing_of_nearness(bert_folder: Path) -> None:
    assert Teacher(find_teacher(str(bert_folder)), sample=CAPTIONS).nearness == {}


@pytest.mark.parametrize(("captions", "size"), [(5, 5), (500, 16), (10_000, 100), (100_000, 256)])
def test_draw_sample__draws_the_same_few_captions_each_time(captions: int, size: int) -> None:
    given = pa.array(np.arange(captions)).cast(pa.large_string())
    drawn = draw_sample(given)
    assert len(set(drawn)) == size
    assert drawn == draw_sample(given)


def test_nearness__is_mean_and_least_of_the_cosines() -> None:
    exact = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    given: Any = np.array([[3, 0], [1, 1], [0, 0]], np.float32)
    assert nearness(given, exact, noun="caption") == {
        "fp32_cosine_mean": pytest.approx((1 + 0.5**0.5 + 1) / 3),
        "fp32_cosine_min": pytest.approx(0.5**0.5),
        "fp32_cosine_captions": 3,
    }
