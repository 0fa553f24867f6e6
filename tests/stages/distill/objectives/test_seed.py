"""SEED: the paper's cross-entropy against the caption itself and a queue, or the corpus."""

import math
from typing import Any

import pytest
import torch
from objective_samples import TableCorpus, unit
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective
from stages.distill.objectives.parts import negatives as queue_module

DIM, QUEUE = 5, 7


def embeddings(seed: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def build(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_objective("seed", **{"dim": DIM, "queue_size": QUEUE, **options})


def slow_seed(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    *,
    teacher_temperature: float,
    student_temperature: float,
    own: list[int] | None = None,
) -> Tensor:
    """Compute arXiv:2101.04731's cross-entropy, pair by pair in float64; ``own`` are keys a pair does without."""
    total = torch.zeros((), dtype=torch.float64)
    for pair, (s, t) in enumerate(zip(unit(student), unit(teacher), strict=True)):
        others = [key for row, key in enumerate(keys) if own is None or row != own[pair]]
        compared = torch.stack([t, *others])
        wanted = torch.softmax(compared @ t / teacher_temperature, dim=0)
        total = total - wanted @ torch.log_softmax(compared @ s / student_temperature, dim=0)
    return total / len(student)


def assert_same(loss: Tensor, expected: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("block", [2, 256])
@pytest.mark.parametrize("teacher_temperature", [0.2, 1e-4])
def test_seed__has_value_and_gradient_of_the_paper_while_the_queue_turns(
    teacher_temperature: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_BLOCK_ROWS", block)
    temperatures = {"teacher_temperature": teacher_temperature, "student_temperature": 0.3}
    objective = build(**temperatures)
    keys = objective.state_dict()["negatives.rows"].double()
    for step, rows in enumerate((4, 3, 9, 1, 5)):
        student, teacher = embeddings(step, rows).requires_grad_(), embeddings(step + 10, rows)
        loss = objective(student=student, teacher=teacher)
        assert_same(loss, slow_seed(student, teacher, keys, **temperatures), student)
        keys = torch.cat([keys, unit(teacher)])[-QUEUE:]


def test_seed__compares_with_65536_at_temperatures_of_1e_4_and_0_07_unless_told() -> None:
    objective = build_objective("seed", dim=2)
    assert (objective.teacher_temperature, objective.student_temperature) == (1e-4, 0.07)
    assert len(objective.state_dict()["negatives.rows"]) == 65536


def test_seed__is_infonce_against_the_queue_at_its_default_temperature() -> None:
    student, teacher, objective = embeddings(1), embeddings(2), build()
    s, t, keys = unit(student), unit(teacher), objective.state_dict()["negatives.rows"].double()
    logits = torch.cat([(s * t).sum(dim=1, keepdim=True), s @ keys.T], dim=1) / 0.07
    expected = nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(objective(student=student, teacher=teacher).double(), expected, rtol=1e-4, atol=1e-5)


def test_seed__splits_the_target_between_copies_of_a_caption() -> None:
    teacher = embeddings(2)
    objective = build()
    objective.negatives.advance(nn.functional.normalize(teacher, dim=1))
    student = teacher.clone().requires_grad_()
    loss = objective(student=student, teacher=teacher)
    loss.backward()
    # Two equal copies: the student can do no better than even odds.
    assert math.log(2) <= loss.item() < math.log(2) + 0.1
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_seed__has_its_minimum_where_the_student_gives_the_teachers_odds() -> None:
    teacher = embeddings(2)
    student = (3 * teacher).requires_grad_()
    loss = build(teacher_temperature=0.1, student_temperature=0.1)(student=student, teacher=teacher)
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def test_seed__leaves_a_pairs_own_caption_out_of_the_corpus() -> None:
    corpus = TableCorpus(embeddings(3, QUEUE))
    temperatures = {"teacher_temperature": 0.2, "student_temperature": 0.3}
    objective = build(corpus=corpus, negatives="corpus", **temperatures)
    own = [5, 0, 5, 6]
    student = embeddings(1).requires_grad_()
    teacher = corpus.table[own]
    loss = objective(student=student, teacher=teacher, rows=torch.tensor(own))
    assert_same(loss, slow_seed(student, teacher, unit(corpus.table), own=own, **temperatures), student)
    loss = objective(student=student, teacher=teacher)
    assert_same(loss, slow_seed(student, teacher, unit(corpus.table), **temperatures), student)


def test_seed__is_zero_where_the_corpus_is_the_caption_alone() -> None:
    corpus = TableCorpus(embeddings(3, 1))
    objective = build(corpus=corpus, negatives="corpus")
    student = embeddings(1, 2).requires_grad_()
    loss = objective(student=student, teacher=corpus.table[[0, 0]], rows=torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_seed__draws_other_captions_at_every_step_of_training_only() -> None:
    objective = build(corpus=TableCorpus(embeddings(3, 200)), negatives="corpus")
    batch = {"student": embeddings(1), "teacher": embeddings(2), "rows": torch.arange(4)}
    objective.eval()
    assert torch.equal(objective(**batch), objective(**batch))
    objective.train()
    assert not torch.equal(objective(**batch), objective(**batch))
    assert list(objective.state_dict()) == ["negatives.step"]
    assert objective.state_dict()["negatives.step"] == 2


def test_seed__keeps_its_queue_outside_training() -> None:
    objective = build().eval()
    before = objective.state_dict()["negatives.rows"].clone()
    objective(student=embeddings(1), teacher=embeddings(2))
    assert torch.equal(objective.state_dict()["negatives.rows"], before)


def test_seed__computes_in_float32_under_autocast() -> None:
    batch = {"student": embeddings(1), "teacher": embeddings(2)}
    expected = build()(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build()(**batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("option", ["teacher_temperature", "student_temperature"])
@pytest.mark.parametrize("temperature", [0.0, math.nan])
def test_seed__refuses_a_temperature_without_meaning(option: str, temperature: float) -> None:
    with pytest.raises(ProtoRKDError, match=f"{option} of seed must be a finite number above 0; got"):
        build(**{option: temperature})


def test_seed__refuses_a_corpus_that_is_not_there() -> None:
    with pytest.raises(ProtoRKDError, match="negatives of seed must be 'queue' where no corpus"):
        build(negatives="corpus")
