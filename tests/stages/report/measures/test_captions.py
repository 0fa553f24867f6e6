"""Measures of captions against plain formulas."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import normalize

from data_schemas.neighbours import Neighbours
from data_schemas.prototypes import Prototypes
from stages.report.corpus import CaptionCorpus
from stages.report.measures.captions import (
    count_captions,
    count_near_duplicates,
    measure_balance,
    measure_lengths,
    measure_nearness,
    measure_space,
)

CPU = torch.device("cpu")


def make_corpus(
    texts: list[str], pair_captions: list[int], *, unknown: tuple[int, ...] = (), dim: int = 4
) -> CaptionCorpus:
    numbers = np.array([row for row in range(len(texts)) if row not in unknown])
    places = np.full(len(texts), -1)
    places[numbers] = np.arange(len(numbers))
    vectors = normalize(torch.randn(len(numbers), 4, generator=torch.Generator().manual_seed(0)), dim=1)
    return CaptionCorpus(
        texts=pa.array(texts, pa.large_string()),
        num_images=len(pair_captions),
        pair_captions=np.array(pair_captions),
        vectors=vectors,
        numbers=numbers,
        places=places,
    )


def test_counts__tell_repeated_and_nearly_equal_captions() -> None:
    corpus = make_corpus(["A cat.", "a  cat", "Dog", "bird, flying"], [0, 0, 0, 1, 2, 2, 3], unknown=(3,))
    found = count_captions(corpus, {"encoded_captions": 4, "cut_captions": 1})
    assert found["repeated_pairs"] == 5
    assert found["repeated"] == [{"caption": "A cat.", "num_pairs": 3}, {"caption": "Dog", "num_pairs": 2}]
    assert found["same_words"] == 2
    assert (found["num_pairs"], found["num_captions"], found["num_zero"]) == (7, 4, 1)
    assert (found["cut"], found["encoded"]) == (1, 4)
    assert count_captions(corpus, {"cut_captions": 0, "encoded_captions": 0})["cut"] is None


def test_lengths__are_in_words_and_characters() -> None:
    found = measure_lengths(pa.array(["one", "one two three four", "a b c d e", " " + "w " * 41], pa.large_string()))
    assert {each["label"]: each["num_captions"] for each in found["bins"] if each["num_captions"]} == {
        "1 to 4": 2,
        "5 to 8": 1,
        "over 40": 1,
    }
    assert len(found["bins"]) == 11
    assert (found["words"]["shortest"], found["words"]["median"], found["words"]["longest"]) == (1, 4.5, 41)
    assert (found["chars"]["shortest"], found["chars"]["longest"]) == (3, 83)


def test_space__is_that_of_plain_formulas() -> None:
    corpus = make_corpus([str(number) for number in range(50)], list(range(50)))
    found, rows = measure_space(corpus, seed=0), corpus.vectors.double().numpy()
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    values /= values.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(values * np.log(values)).sum()))
    cosines = rows @ rows.T
    assert found["mean_cosine"] == pytest.approx((cosines.sum() - np.trace(cosines)) / (50 * 49))


def test_nearness__counts_every_pair_but_the_own() -> None:
    texts = [str(number) for number in range(20)]
    pair_captions = [*range(20), 3, 3, 7]
    corpus = make_corpus(texts, pair_captions, unknown=(5,))
    found = measure_nearness(corpus, levels=[0.3, 0.9], near_duplicate_cosine=0.8, sample_size=1000, seed=0, device=CPU)
    pairs = corpus.places[[row for row in pair_captions if row != 5]]
    vectors = corpus.vectors.numpy()
    cosines = vectors[pairs] @ vectors[pairs].T
    np.fill_diagonal(cosines, -2)  # a pair itself
    near = [(cosines >= level).sum(axis=1) for level in (0.3, 0.9)]
    assert found["num_sampled"] == 22
    assert [rate["share"] for rate in found["false_negatives"]] == pytest.approx([np.mean(each) / 21 for each in near])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    assert found["near_duplicates"] == pytest.approx((cosines.max(axis=1) >= 0.8).mean())


def test_near_duplicates__are_each_pair_once_the_nearest_first() -> None:
    neighbours = Neighbours(
        rows=np.array([[1, 2], [0, 2], [0, 1], [-1, -1]]),
        cosines=np.array([[0.99, 0.96], [0.99, 0.9], [0.96, 0.9], [0, 0]], np.float32),
    )
    found = count_near_duplicates(neighbours, cosine=0.95)
    assert found["num"] == 3
    assert found["pairs"].tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(found["cosines"], [0.99, 0.96])
    assert count_near_duplicates(neighbours, cosine=-1)["num"] == 3  # an empty place is nobody's duplicate


def test_balance__is_one_where_all_prototypes_are_as_large() -> None:
    def prototypes(assignment: list[int]) -> Prototypes:
        numbers = np.array(assignment, np.int32)
        return Prototypes(np.eye(4, dtype=np.float32), numbers, np.ones(len(numbers), np.float32))

    even = measure_balance(prototypes([0, 1, 2, 3, 3, 2, 1, 0, -1]))
    assert (even["effective_share"], even["largest_share"], even["num_empty"]) == (pytest.approx(1), 0.25, 0)
    uneven = measure_balance(prototypes([0, 0, 0, 1]))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert uneven["effective_share"] == pytest.approx(np.exp(entropy) / 4)
    assert (uneven["num_empty"], uneven["largest"], uneven["smallest"], uneven["largest_share"]) == (2, 3, 0, 0.75)
