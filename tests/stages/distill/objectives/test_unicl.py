"""UniCL and classification: which pairs are one class, with labels, with some, and without."""

import math
from typing import Any

import pytest
import torch
from objective_samples import unit
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

DIM = 5


def embeddings(seed: int, rows: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_objective(name, dim=DIM, **options)


def slow_unicl(student: Tensor, teacher: Tensor, classes: list[int], *, scale: Tensor | float) -> Tensor:
    """Equations 3 and 4 of arXiv:2204.03610, pair by pair, averaged over the batch and over both directions."""
    s, t = unit(student), unit(teacher)
    total = torch.zeros((), dtype=torch.float64)
    for queries, keys in ((s, t), (t, s)):
        for query, own in zip(queries, classes, strict=True):
            exponentials = [torch.exp(scale * (query @ key)) for key in keys]
            positives = [one for one, other in zip(exponentials, classes, strict=True) if other == own]
            total = total - sum(torch.log(one / sum(exponentials)) for one in positives) / len(positives)
    return total / (2 * len(classes))


def slow_classification(student: Tensor, weight: Tensor, classes: list[int], *, temperature: float) -> Tensor:
    """Softmax cross-entropy over the rows of ``weight``, averaged over the pairs of a known class."""
    losses = [
        torch.logsumexp(weight @ s / temperature, dim=0) - weight[own] @ s / temperature
        for s, own in zip(unit(student), classes, strict=True)
        if own >= 0
    ]
    return sum(losses, start=torch.zeros((), dtype=torch.float64)) / len(losses)


def assert_same(loss: Tensor, expected: Tensor, *inputs: Tensor, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=1e-7)
    for one in inputs:
        gradients = [torch.autograd.grad(value, one, retain_graph=True)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([3, 0, 3, 3, 0], [3, 0, 3, 3, 0]),
        ([3, -1, 3, -1, 0], [3, 10, 3, 11, 0]),
        ([-1, 2, -1, 2, -1], [10, 2, 11, 2, 12]),
    ],
)
def test_unicl__has_value_and_gradients_of_the_formula(labels: list[int], classes: list[int]) -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)
    objective = build("unicl", temperature=0.4)
    loss = objective(student=student, teacher=teacher, rows=torch.arange(5), labels=torch.tensor(labels))
    log_scale = objective.logit_scale.detach().double().requires_grad_()
    expected = slow_unicl(student, teacher, classes, scale=log_scale.exp())
    assert_same(loss, expected, student)
    loss.backward()
    torch.testing.assert_close(
        objective.logit_scale.grad.double(), torch.autograd.grad(expected, log_scale)[0], rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("labels", [None, torch.full((5,), -1)])
@pytest.mark.parametrize("with_rows", [True, False])
def test_unicl__takes_the_caption_for_the_class_where_there_is_no_label(with_rows: bool, labels: Tensor | None) -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)[[0, 1, 0, 2, 1]]
    rows = torch.tensor([7, 3, 7, 9, 3]) if with_rows else None
    loss = build("unicl", temperature=0.4)(student=student, teacher=teacher, rows=rows, labels=labels)
    assert_same(loss, slow_unicl(student, teacher, [7, 3, 7, 9, 3], scale=1 / 0.4), student)
    merged = build("infonce", temperature=0.4, merge_duplicates=True)
    torch.testing.assert_close(loss, merged(student=student, teacher=teacher, rows=rows))


def test_unicl__tells_classes_apart_that_share_a_caption() -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)[[0, 0, 0, 1, 2]]
    labels = torch.tensor([1, 2, -1, 1, -1])
    loss = build("unicl", temperature=0.4)(student=student, teacher=teacher, labels=labels)
    assert_same(loss, slow_unicl(student, teacher, [1, 2, 10, 1, 11], scale=1 / 0.4), student)


def test_unicl__starts_at_a_temperature_of_0_07_and_stops_at_a_scale_of_100_unless_told() -> None:
    batch = {"student": embeddings(1), "teacher": embeddings(2)}
    objective = build("unicl")
    assert objective.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert objective.logit_scale.requires_grad
    assert not build("unicl", learn_temperature=False).logit_scale.requires_grad
    with torch.no_grad():
        objective.logit_scale.fill_(10)
    torch.testing.assert_close(
        objective(**batch), slow_unicl(*batch.values(), list(range(5)), scale=100), rtol=1e-5, atol=0
    )


def test_unicl__refuses_a_temperature_beyond_its_greatest_scale() -> None:
    with pytest.raises(ProtoRKDError, match=r"temperature of unicl must be at least 1 / max_scale, 0\.1; got 0\.07"):
        build("unicl", max_scale=10.0)


def test_cross_entropy__has_value_and_gradients_of_the_formula_where_labels_are_known() -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)
    objective = build("cross-entropy", num_labels=4, temperature=0.3).double()
    labels = [3, 0, -1, 3, -1]
    loss = objective(student=student, teacher=teacher, labels=torch.tensor(labels))
    expected = slow_classification(student, objective.weight, labels, temperature=0.3)
    assert_same(loss, expected, student, objective.weight)


def test_cross_entropy__is_zero_with_a_gradient_of_zero_where_no_label_is_known() -> None:
    student = embeddings(1).requires_grad_()
    objective = build("cross-entropy", num_labels=4)
    loss = objective(student=student, teacher=embeddings(2), labels=torch.full((5,), -1))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0
    assert objective.weight.grad.abs().max() == 0


def test_cross_entropy__starts_with_rows_about_as_long_as_captions() -> None:
    weight = build_objective("cross-entropy", dim=512, num_labels=50).weight
    assert weight.shape == (50, 512)
    assert weight.norm(dim=1).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("with_rows", [True, False])
def test_cross_entropy__classifies_by_distinct_captions_where_there_are_no_labels(with_rows: bool) -> None:
    student, captions = embeddings(1).requires_grad_(), embeddings(2, rows=3)
    classes = [0, 1, 0, 2, 1]
    rows = torch.tensor(classes) + 7 if with_rows else None
    loss = build("cross-entropy")(student=student, teacher=captions[classes], rows=rows, labels=torch.full((5,), -1))
    assert_same(loss, slow_classification(student, unit(captions), classes, temperature=0.07), student)


def test_cross_entropy__is_zero_where_all_pairs_have_one_caption() -> None:
    student = embeddings(1).requires_grad_()
    loss = build("cross-entropy")(student=student, teacher=embeddings(2)[[0] * 5])
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("name", ["unicl", "cross-entropy"])
def test_label_objectives__compute_in_float32_under_autocast(name: str) -> None:
    labels = torch.tensor([0, 1, 1, -1, 0])
    batch = {"student": embeddings(1, dtype=torch.float32), "teacher": embeddings(2, dtype=torch.float32)}
    expected = build(name, num_labels=2)(**batch, labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name, num_labels=2)(**batch, labels=labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", ["unicl", "cross-entropy"])
@pytest.mark.parametrize("temperature", [0.0, math.nan])
def test_label_objectives__refuse_a_temperature_without_meaning(name: str, temperature: float) -> None:
    with pytest.raises(ProtoRKDError, match=f"temperature of {name} must be a finite number above 0; got"):
        build(name, temperature=temperature)


def test_cross_entropy__refuses_to_classify_without_labels_that_it_was_told_of() -> None:
    with pytest.raises(ProtoRKDError, match="labels of cross-entropy must be given where num_labels is 4; got none"):
        build("cross-entropy", num_labels=4)(student=embeddings(1), teacher=embeddings(2))
