"""False negatives of a batch: against all batches there are."""

from itertools import combinations

import numpy as np
import pytest

from stages.report.measures.false_negatives import false_negative_rates


@pytest.mark.parametrize("size", [2, 4, 6])
def test_rates__are_the_means_over_all_batches(size: int) -> None:
    near = [{1, 2, 5}, {0}, {0}, set(), {5}, {0, 4}]  # pairs that are false negatives of each
    found = false_negative_rates(np.array([float(len(each)) for each in near]), num_pairs=6, batch_sizes=(size,))
    counts = [
        len(near[own] & set(others))
        for own in range(6)
        for others in combinations([pair for pair in range(6) if pair != own], size - 1)
    ]
    [batch] = found["batches"]
    assert batch["mean"] == pytest.approx(np.mean(counts))
    assert batch["affected"] == pytest.approx(np.mean(np.array(counts) > 0))
    assert found["share"] == pytest.approx(np.mean(counts) / (size - 1))


def test_rates__of_a_batch_larger_than_the_corpus_are_those_of_the_corpus() -> None:
    found = false_negative_rates(np.array([1.0, 0.0]), num_pairs=3, batch_sizes=(2, 512, 32_768))
    assert [batch["batch_size"] for batch in found["batches"]] == [2, 3]
    assert found["batches"][1] == {"batch_size": 3, "mean": pytest.approx(0.5), "affected": pytest.approx(0.5)}
