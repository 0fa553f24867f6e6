"""ProtoCLIP's prototypical loss: the formula in loops, and what back translation does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective
from stages.distill.objectives.proto import ProtoLoss

K, DIM, BATCH = 5, 4, 7


def rows(seed: int, num: int = BATCH) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centroids(_: int = K) -> Tensor:
    return nn.functional.normalize(rows(0, K)).float()


def build(**options: Any) -> Any:
    return build_objective("proto", dim=DIM, prototypes=centroids, **options)


def slow_proto(
    student: Tensor,
    teacher: Tensor,
    translated: list[Tensor],
    *,
    target_temperature: float = 0.01,
    student_temperature: float = 0.07,
    targets: str = "prototype",
) -> Tensor:
    """Return the authors' ProtoLoss with teacher_temperature > 0, in loops; ``targets`` is ours."""
    prototypes = [row.double() for row in centroids()]
    total = torch.zeros((), dtype=torch.float64)
    for image, caption in zip(student, teacher, strict=True):
        s, t = image / image.norm(), caption / caption.norm()
        nearest = max(range(K), key=lambda k: float(t @ prototypes[k]))
        compared = prototypes[nearest] if targets == "prototype" else t
        wanted = torch.stack([compared @ c for c in prototypes]).div(target_temperature).exp()
        given = torch.stack([s @ c for c in translated]).div(student_temperature).exp()
        total = total - ((wanted / wanted.sum()) * (given / given.sum()).log()).sum()
    return total / len(student)


def assert_same(loss: Tensor, expected: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    (given,), (wanted,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [{}, {"targets": "caption"}, {"target_temperature": 0.3, "student_temperature": 0.2, "targets": "caption"}],
)
def test_proto__has_value_and_gradient_of_the_formula(options: dict[str, Any]) -> None:
    student = rows(1).requires_grad_()
    loss = build(back_translation=False, **options)(student=student, teacher=rows(2))
    expected = slow_proto(student, rows(2), [row.double() for row in centroids()], **options)
    assert_same(loss, expected, student)


def test_proto__translates_back_unless_told_with_means_that_are_constants() -> None:
    objective = build()
    means = [row.double() for row in centroids()]
    for step in range(3):
        student, teacher = rows(10 + step).requires_grad_(), rows(20 + step)
        loss = objective(student=student, teacher=teacher)
        unit = nn.functional.normalize(student.detach())
        nearest = (teacher @ centroids().double().T).argmax(dim=1)
        for k in range(K):
            if (nearest == k).any():
                means[k] = 0.9 * means[k] + 0.1 * unit[nearest == k].mean(dim=0)
        assert_same(loss, slow_proto(student, teacher, [mean / mean.norm() for mean in means]), student)


def test_proto__scores_against_the_prototypes_themselves_where_means_never_move() -> None:
    batch = {"student": rows(1), "teacher": rows(2)}
    torch.testing.assert_close(build(momentum=1.0)(**batch), build(back_translation=False)(**batch), rtol=1e-6, atol=0)


def test_proto__takes_the_batch_for_prototypes_where_none_are_given() -> None:
    teacher = rows(2)
    given = ProtoLoss(dim=DIM, prototypes=lambda _: teacher.float())
    bare = ProtoLoss(dim=DIM)
    batch = {"student": rows(1).float(), "teacher": teacher.float()}
    torch.testing.assert_close(bare(**batch), given(**batch))
    assert not bare.state_dict()


def test_proto__restored_goes_on_exactly_and_evaluation_changes_nothing() -> None:
    used, restored = build(learn_temperature=True), build(learn_temperature=True)
    used(student=rows(1), teacher=rows(2))
    restored.load_state_dict(used.state_dict())
    restored.eval()(student=rows(3), teacher=rows(4))
    for name, value in used.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    restored.train()
    for step in range(3):
        batch = {"student": rows(step), "teacher": rows(step + 9)}
        assert torch.equal(used(**batch), restored(**batch))
    assert torch.equal(used.map.means, restored.map.means)


def test_proto__learns_its_temperature_when_asked_to() -> None:
    objective = build(learn_temperature=True)
    objective(student=rows(1), teacher=rows(2)).backward()
    (scale,) = objective.parameters()
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert not list(build().parameters())


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("target_temperature", 0.0, "a finite number above 0"),
        ("student_temperature", float("inf"), "a finite number above 0"),
        ("targets", "soft", "one of prototype, caption"),
        ("num_prototypes", 1, "at least 2"),
        ("momentum", 1.1, "from 0 to 1"),
    ],
)
def test_proto__refuses_options_out_of_range(option: str, value: object, rule: str) -> None:
    with pytest.raises(ProtoRKDError, match=f"{option} of proto must be {rule}; got "):
        build(**{option: value})
