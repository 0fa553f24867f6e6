"""SigLIP: a logistic loss of every image with every caption, its scale and bias, in any number of blocks."""

import math

import pytest
import torch
from objective_samples import unit
from torch import Tensor

from benchmarks.measure import peak_memory
from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

DIM = 5
ROWS, IMAGES = torch.tensor([4, 1, 2, 4, 5, 6]), torch.tensor([0, 0, 1, 2, 3, 3])


def embeddings(seed: int, rows: int = 6) -> Tensor:
    return 3 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_siglip(
    student: Tensor, teacher: Tensor, scale: Tensor, bias: Tensor, *, pairs: set[tuple[int, int]], spare: float = 2.0
) -> Tensor:
    """The paper's formula, by loops."""
    s, t = unit(student), unit(teacher)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(s)):
        for j in range(len(t)):
            is_pair = (i, j) in pairs
            if not is_pair and t[i] @ t[j] > spare:
                continue
            total = total - torch.log(torch.sigmoid((1 if is_pair else -1) * (scale * (s[i] @ t[j]) + bias)))
    return total / len(s)


OWN = {(pair, pair) for pair in range(6)}
SAME_CAPTION, SAME_IMAGE = {(0, 3), (3, 0)}, {(0, 1), (1, 0), (4, 5), (5, 4)}


@pytest.mark.parametrize(
    ("options", "pairs", "spare"),
    [
        ({}, OWN, 2.0),
        ({"merge_duplicates": True}, OWN | SAME_CAPTION, 2.0),
        ({"merge_images": True}, OWN | SAME_IMAGE, 2.0),
        ({"spare_above": 0.2}, OWN, 0.2),
        ({"merge_duplicates": True, "merge_images": True, "spare_above": 0.2}, OWN | SAME_CAPTION | SAME_IMAGE, 0.2),
    ],
)
def test_siglip__has_value_and_gradients_of_the_formula(
    options: dict[str, object], pairs: set[tuple[int, int]], spare: float
) -> None:
    objective = build_objective("siglip", dim=DIM, temperature=0.4, bias=-1.0, **options).double()
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)[[0, 1, 2, 0, 3, 4]]
    loss = objective(student=student, teacher=teacher, rows=ROWS, images=IMAGES)
    log_scale = objective.logit_scale.detach().clone().requires_grad_()
    bias = objective.bias.detach().clone().requires_grad_()
    expected = slow_siglip(student, teacher, log_scale.exp(), bias, pairs=pairs, spare=spare)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (student, objective.logit_scale, objective.bias))
    for one, wanted in zip(found, torch.autograd.grad(expected, (student, log_scale, bias)), strict=True):
        torch.testing.assert_close(one, wanted)


def test_siglip__starts_as_the_paper_does() -> None:
    objective = build_objective("siglip", dim=DIM)
    assert objective.logit_scale.item() == pytest.approx(math.log(10))
    assert objective.bias.item() == -10
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_siglip__is_the_same_from_any_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = embeddings(1, rows=37).requires_grad_(), embeddings(2, rows=37)
    objective = build_objective("siglip", dim=DIM, temperature=0.4, bias=-1.0, spare_above=0.3).double()
    found = []
    for size in (64, 5):
        monkeypatch.setattr("stages.distill.objectives.parts.negatives._BLOCK_ROWS", size)
        loss = objective(student=student, teacher=teacher)
        found.append((loss.detach(), *torch.autograd.grad(loss, (student, objective.bias))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_siglip__holds_blocks_alone() -> None:
    student, teacher = torch.randn(2048, 32, requires_grad=True), torch.randn(2048, 32)  # scores of 16 MiB
    objective = build_objective("siglip", dim=32)

    def step() -> None:
        objective(student=student, teacher=teacher).backward()

    step()
    assert peak_memory(step) < 6 << 20


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", 0.0), ("bias", math.nan), ("spare_above", 0.0), ("spare_above", 1.1)]
)
def test_siglip__refuses_options_without_meaning(option: str, value: float) -> None:
    with pytest.raises(ProtoRKDError, match=rf"{option} of siglip must .*; got {value}"):
        build_objective("siglip", dim=DIM, **{option: value})
