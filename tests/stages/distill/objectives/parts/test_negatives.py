"""What batches are compared with: order of the queue, fairness of the draw, and a gradient that outlives both."""

import pytest
import torch
from objective_samples import TableCorpus
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts import negatives as queue_module
from stages.distill.objectives.parts.negatives import (
    CorpusDraw,
    EmbeddingQueue,
    build_negatives,
    draw_rows,
    mean_over_rows,
    starting_rows,
)

DIM = 3


def corpus_of(num_captions: int) -> TableCorpus:
    return TableCorpus(torch.randn(num_captions, DIM, generator=torch.Generator().manual_seed(7)) * 5)


def corpus_rows(corpus: TableCorpus, keys: Tensor) -> list[int]:
    """Find which rows of the corpus unit keys are."""
    cosines = keys @ torch.nn.functional.normalize(corpus.table, dim=1).T
    assert torch.allclose(cosines.max(dim=1).values, torch.ones(len(keys)))
    return cosines.argmax(dim=1).tolist()


def oldest_first(queue: EmbeddingQueue) -> Tensor:
    return queue.rows.roll(-int(queue.pointer), dims=0)


def test_queue__holds_the_last_rows_whatever_the_batches() -> None:
    history = torch.arange(5.0)[:, None].expand(5, DIM).contiguous()
    queue = EmbeddingQueue(history.clone())
    for batch in (2, 2, 3, 5, 1, 13, 4, 7, 10):
        rows = len(history) + torch.arange(float(batch))[:, None].expand(batch, DIM)
        history = torch.cat([history, rows])
        queue.advance(rows)
        assert torch.equal(oldest_first(queue), history[-5:])


def test_queue__is_overwritten_in_place() -> None:
    queue = EmbeddingQueue(torch.zeros(5, DIM))
    keys, rows = queue.keys()
    queue.advance(torch.ones(2, DIM))
    assert rows is None
    assert keys.data_ptr() == queue.rows.data_ptr()
    assert keys.sum() == 2 * DIM


def test_queue__goes_on_from_its_state_in_the_middle_of_a_turn() -> None:
    used, restored = EmbeddingQueue(torch.zeros(5, DIM)), EmbeddingQueue(torch.ones(5, DIM))
    used.advance(torch.full((3, DIM), 2.0))
    restored.load_state_dict(used.state_dict())
    for queue in (used, restored):
        queue.advance(torch.full((4, DIM), 3.0))
    assert torch.equal(used.rows, restored.rows)
    assert torch.equal(used.pointer, restored.pointer)


def test_starting_rows__are_distinct_captions_always_the_same() -> None:
    corpus = corpus_of(50)
    rows = starting_rows("seed", size=20, dim=DIM, corpus=corpus)
    torch.randn(3)
    assert torch.equal(rows, starting_rows("seed", size=20, dim=DIM, corpus=corpus))
    assert len(set(corpus_rows(corpus, rows))) == 20


def test_starting_rows__repeat_a_small_corpus() -> None:
    corpus = corpus_of(4)
    found = corpus_rows(corpus, starting_rows("seed", size=10, dim=DIM, corpus=corpus))
    assert sorted(found.count(row) for row in range(4)) == [2, 2, 3, 3]


def test_starting_rows__are_random_directions_without_a_corpus() -> None:
    torch.manual_seed(0)
    first, second = (starting_rows("seed", size=10, dim=DIM, corpus=None) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(first, starting_rows("seed", size=10, dim=DIM, corpus=None))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(10))


@pytest.mark.parametrize(("num_rows", "size"), [(10, 10), (11, 10), (15, 10), (1000, 7), (14_000_000, 65536)])
def test_draw_rows__takes_none_twice(num_rows: int, size: int) -> None:
    for seed in range(3):
        rows = draw_rows(num_rows, size, seed=seed)
        assert len(rows.unique()) == len(rows) == size
        assert rows.min() >= 0
        assert rows.max() < num_rows


def test_draw_rows__takes_each_row_equally_often() -> None:
    draws = 2000
    taken = torch.cat([draw_rows(15, 10, seed=seed) for seed in range(draws)]).bincount(minlength=15)
    # Binomial with probability 2/3: five standard deviations.
    assert (taken - draws * 10 / 15).abs().max() < 5 * (draws * 2 / 9) ** 0.5


def test_corpus_draw__changes_with_the_step_and_goes_on_from_its_state() -> None:
    corpus = corpus_of(40)
    used, restored = CorpusDraw(corpus, 10), CorpusDraw(corpus, 10)
    first, _ = used.keys()
    assert torch.equal(first, used.keys()[0])
    used.advance(first)
    second, rows = used.keys()
    assert not torch.equal(first, second)
    assert corpus_rows(corpus, second) == rows.tolist()
    restored.load_state_dict(used.state_dict())
    assert torch.equal(second, restored.keys()[0])
    assert list(used.state_dict()) == ["step"]


@pytest.mark.parametrize("size", [6, 9])
def test_corpus_draw__is_the_whole_of_a_small_corpus(size: int) -> None:
    corpus = corpus_of(6)
    draw = CorpusDraw(corpus, size)
    keys, rows = draw.keys()
    assert corpus_rows(corpus, keys) == rows.tolist() == list(range(6))
    assert list(draw.state_dict()) == ["step"]


def test_mean_over_rows__has_value_and_gradient_of_the_direct_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_BLOCK_ROWS", 3)
    student = torch.randn(7, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(7.0)
    mean = 2 * mean_over_rows(lambda block, part: weights[part] * block.square().sum(dim=1), student)
    expected = 2 * (weights * student.square().sum(dim=1)).mean()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(torch.autograd.grad(mean, student), torch.autograd.grad(expected, student))


def test_mean_over_rows__lets_what_it_was_computed_from_change() -> None:
    student = torch.ones(2, DIM, requires_grad=True)
    keys = torch.full((4, DIM), 3.0)
    loss = mean_over_rows(lambda block, part: (block @ keys.T).sum(dim=1), student)
    keys.zero_()
    loss.backward()
    assert torch.equal(student.grad, torch.full((2, DIM), 4 * 3 / 2))


def test_mean_over_rows__takes_no_gradient_that_nobody_wants() -> None:
    student = torch.ones(2, DIM, requires_grad=True)
    wanted: list[bool] = []

    def row_losses(block: Tensor, part: slice) -> Tensor:
        wanted.append(torch.is_grad_enabled())
        return block.sum(dim=1)

    with torch.no_grad():
        assert mean_over_rows(row_losses, student) == DIM
    assert not mean_over_rows(row_losses, student.detach()).requires_grad
    assert mean_over_rows(row_losses, student).requires_grad
    assert wanted == [False, False, True]


def test_negatives__are_a_queue_or_the_corpus() -> None:
    corpus = corpus_of(6)
    options = {"queue_size": 4, "dim": DIM, "corpus": corpus}
    assert isinstance(build_negatives("seed", negatives="queue", **options), EmbeddingQueue)
    assert isinstance(build_negatives("seed", negatives="corpus", **options), CorpusDraw)
    with pytest.raises(ProtoRKDError, match="negatives of seed must be one of queue, corpus; got 'batch'"):
        build_negatives("seed", negatives="batch", **options)
    with pytest.raises(ProtoRKDError, match=r"negatives of seed must be 'queue' where no corpus .*; got 'corpus'"):
        build_negatives("seed", negatives="corpus", queue_size=4, dim=DIM, corpus=None)


@pytest.mark.parametrize("negatives", ["queue", "corpus"])
def test_negatives__refuse_an_empty_queue(negatives: str) -> None:
    with pytest.raises(ProtoRKDError, match="queue_size of seed must be at least 1; got 0"):
        build_negatives("seed", negatives=negatives, queue_size=0, dim=DIM, corpus=corpus_of(6))
