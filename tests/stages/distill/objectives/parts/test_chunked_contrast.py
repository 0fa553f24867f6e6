"""A batch that is taken in blocks of rows has the loss and the gradients of the whole, and little memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.measure import peak_memory
from stages.distill.objectives import build_objective
from stages.distill.objectives.parts import chunked_contrast as module

BATCH, DIM = 37, 6
HARD = {"hard_negatives": 1.5, "learn_temperature": False}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("infonce", {}),
    "duplicates": ("infonce", {"merge_duplicates": True}),
    "smoothing": ("infonce", {"label_smoothing": 0.2}),
    "corpus": ("infonce", {"corpus_negatives": 11}),
    "all": ("infonce", {"corpus_negatives": 11, "label_smoothing": 0.2, "merge_duplicates": True}),
    "hard": ("infonce", HARD),
    "hard, corpus": ("infonce", HARD | {"corpus_negatives": 11}),
    "spared": ("infonce", {"spare_above": 0.3}),
    "spared, smoothing": ("infonce", {"spare_above": 0.3, "label_smoothing": 0.2}),
    "images": ("infonce", {"merge_images": True}),
    "images, duplicates": ("infonce", {"merge_images": True, "merge_duplicates": True}),
    "images, duplicates, smoothing": (
        "infonce",
        {"merge_images": True, "merge_duplicates": True, "label_smoothing": 0.2},
    ),
    "every option": (
        "infonce",
        HARD
        | {"corpus_negatives": 11, "label_smoothing": 0.2, "merge_duplicates": True}
        | {"spare_above": 0.3, "merge_images": True},
    ),
    "unicl": ("unicl", {}),
}


class Corpus:
    """Captions, of which the batch's are the first."""

    num_captions = 50

    def gather(self, rows: Tensor) -> Tensor:
        table = torch.randn(self.num_captions, DIM, generator=torch.Generator().manual_seed(5))
        return table[rows]


ROWS = torch.arange(BATCH) % 30  # some captions twice
IMAGES = torch.arange(BATCH) // 4 % 7  # several captions of an image, some of them another image's as well


def evaluated(name: str, options: dict[str, Any], *, rows: Tensor | None, **words: Any) -> tuple[Tensor, ...]:
    """Loss, gradient in the student and in the scale, and in the end the state of the negatives."""
    objective: nn.Module = build_objective(name, dim=DIM, corpus=Corpus(), **options).double()
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(BATCH, DIM, generator=generator).double().requires_grad_()
    teacher = Corpus().gather(ROWS).double()
    loss = objective(student=student, teacher=teacher, rows=rows, **words)
    (3 * loss).backward()
    assert student.grad is not None
    return loss.detach(), student.grad, objective.logit_scale.grad, *objective.state_dict().values()


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def shrink() -> None:
        monkeypatch.setattr(module, "MOST_SCORES", 100)
        monkeypatch.setattr(module, "_BLOCK_SCORES", 5 * 48)  # a few rows, and a shorter last block

    return shrink


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows", "no rows"])
@pytest.mark.parametrize("case", OPTIONS)
def test_chunked_contrast__equals_the_whole(case: str, rows: Tensor | None, in_blocks: Callable[[], None]) -> None:
    name, options = OPTIONS[case]
    words = {"labels": torch.arange(BATCH) % 5 - 1} if name == "unicl" else {"images": IMAGES}
    whole = evaluated(name, options, rows=rows, **words)
    in_blocks()
    for found, wanted in zip(evaluated(name, options, rows=rows, **words), whole, strict=True):
        torch.testing.assert_close(found, wanted)


def test_chunked_contrast__needs_no_gradient(in_blocks: Callable[[], None]) -> None:
    objective = build_objective("infonce", dim=DIM)
    student, teacher = torch.randn(2, BATCH, DIM)
    with torch.no_grad():
        whole = objective(student=student, teacher=teacher)
        in_blocks()
        torch.testing.assert_close(objective(student=student, teacher=teacher), whole)


def test_chunked_contrast__holds_blocks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SCORES", 1 << 18)
    monkeypatch.setattr(module, "_BLOCK_SCORES", 1 << 18)
    batch = 2048  # scores of 16 MiB
    student, teacher = torch.randn(batch, 32, requires_grad=True), torch.randn(batch, 32)
    objective = build_objective("infonce", dim=32)

    def step() -> None:
        objective(student=student, teacher=teacher).backward()

    step()
    assert peak_memory(step) < 6 << 20
