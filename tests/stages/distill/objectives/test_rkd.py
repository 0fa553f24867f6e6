"""Relations inside the batch: the authors' values and gradients, without their tensors."""

from typing import Any

import pytest
import torch
from objective_samples import gradient
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective


def slow_distances(embeddings: Tensor) -> Tensor:
    """Return the paper's psi_D as its authors compute it: their pdist, then the mean over positive entries."""
    squares = embeddings.square().sum(dim=1)
    squared = (squares[:, None] + squares[None, :] - 2 * embeddings @ embeddings.T).clamp(min=1e-12)
    distances = squared.sqrt() * (1 - torch.eye(len(embeddings), dtype=embeddings.dtype))
    return distances / distances[distances > 0].mean()


def slow_angles(embeddings: Tensor) -> Tensor:
    """Compute the paper's psi_A as its authors do: (batch, batch, dim) differences, (batch, batch, batch) cosines."""
    differences = nn.functional.normalize(embeddings[None, :, :] - embeddings[:, None, :], dim=2)
    return torch.bmm(differences, differences.transpose(1, 2))


def slow_rkd(student: Tensor, teacher: Tensor, *, distance_weight: float = 0.5, angle_weight: float = 1.0) -> Tensor:
    distance = nn.functional.smooth_l1_loss(slow_distances(student), slow_distances(teacher))
    angle = nn.functional.smooth_l1_loss(slow_angles(student), slow_angles(teacher))
    return distance_weight * distance + angle_weight * angle


def pair(*, rows: int = 9, student_dim: int = 5, teacher_dim: int = 7, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(rows, student_dim, generator=generator, dtype=dtype)
    return student.requires_grad_(), torch.randn(rows, teacher_dim, generator=generator, dtype=dtype)


@pytest.mark.parametrize("angle_block", [0, 1, 4, 16])
@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(0.5, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd__has_value_and_gradient_of_the_direct_form(
    distance_weight: float, angle_weight: float, angle_block: int
) -> None:
    student, teacher = pair(dtype=torch.float64)
    weights = {"distance_weight": distance_weight, "angle_weight": angle_weight}
    loss = build_objective("rkd", dim=7, angle_block=angle_block, **weights)(student=student, teacher=teacher)
    expected = slow_rkd(student, teacher, **weights)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient(loss, student), gradient(expected, student), rtol=1e-8, atol=1e-12)


def test_rkd__weighs_distances_by_a_half_and_angles_by_one_unless_told() -> None:
    student, teacher = pair(dtype=torch.float32)
    loss = build_objective("rkd", dim=7)(student=student, teacher=teacher)
    torch.testing.assert_close(loss, slow_rkd(student, teacher))


def test_rkd__treats_coinciding_rows_as_the_direct_form_does() -> None:
    student, teacher = pair(dtype=torch.float64)
    teacher = teacher[[0, 0, 1, 1, 2, 3, 4, 5, 6]]
    student = student.detach()[[0, 1, 1, 1, 4, 5, 6, 7, 8]].requires_grad_()
    loss = build_objective("rkd", dim=7)(student=student, teacher=teacher)
    torch.testing.assert_close(loss, slow_rkd(student, teacher), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dim", [1, 3, 64, 768])
def test_rkd__finds_coinciding_rows_through_the_rounding_of_float32(dim: int) -> None:
    student, teacher = pair(rows=16, student_dim=dim, teacher_dim=dim, dtype=torch.float32)
    student = (student.detach() * 100 + 1000).repeat(2, 1).requires_grad_()
    loss = build_objective("rkd", dim=dim)(student=student, teacher=teacher.repeat(2, 1))
    expected = slow_rkd(student.double(), teacher.double().repeat(2, 1))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=1e-4)
    assert gradient(loss, student).abs().max() < 1


def test_rkd__keeps_its_precision_far_from_the_origin() -> None:
    student, teacher = pair(dtype=torch.float32)
    objective = build_objective("rkd", dim=7)
    far = (student.detach() + 100).requires_grad_()
    torch.testing.assert_close(
        gradient(objective(student=far, teacher=teacher), far),
        gradient(objective(student=student, teacher=teacher), student),
        rtol=1e-2,
        atol=1e-5,
    )


def test_rkd__ignores_rotation_of_the_student() -> None:
    student, teacher = pair(dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    objective = build_objective("rkd", dim=7)
    torch.testing.assert_close(
        objective(student=student @ rotation, teacher=teacher), objective(student=student, teacher=teacher)
    )


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_rkd__ignores_scale_and_translation_of_the_student(scale: float) -> None:
    student, teacher = pair(dtype=torch.float64)
    objective = build_objective("rkd", dim=7)
    torch.testing.assert_close(
        objective(student=student * scale + 3, teacher=teacher), objective(student=student, teacher=teacher)
    )


def test_rkd__is_zero_where_the_relations_agree() -> None:
    student, _ = pair(dtype=torch.float64)
    teacher = nn.functional.pad(student.detach() * 3 - 1, (0, 4))
    assert build_objective("rkd", dim=9)(student=student, teacher=teacher).item() == pytest.approx(0, abs=1e-12)


def test_rkd__is_zero_for_a_batch_of_one() -> None:
    student, teacher = pair(rows=1, dtype=torch.float32)
    loss = build_objective("rkd", dim=7)(student=student, teacher=teacher)
    assert loss.item() == 0
    assert gradient(loss, student).abs().max() == 0


def test_rkd__computes_in_float32_under_autocast() -> None:
    student, teacher = pair(dtype=torch.float32)
    objective = build_objective("rkd", dim=7)
    expected = objective(student=student, teacher=teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(student=student, teacher=teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(gradient(loss, student), gradient(expected, student))


class LargestTensor(TorchDispatchMode):
    """Remember the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.num_elements = max(self.num_elements, *sizes, 0)
        return result


def test_rkd__makes_no_tensor_larger_than_one_block_of_angles() -> None:
    student, teacher = pair(rows=64, student_dim=32, teacher_dim=32, dtype=torch.float32)
    with LargestTensor() as largest:
        build_objective("rkd", dim=32, angle_block=8)(student=student, teacher=teacher).backward()
    assert 64 * 64 < largest.num_elements <= 8 * 64 * 64


def test_rkd__keeps_no_block_of_angles_for_the_backward_pass() -> None:
    student, teacher = pair(rows=32, dtype=torch.float32)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved
    ):
        build_objective("rkd", dim=7, angle_block=4)(student=student, teacher=teacher)
    assert max(kept) <= 32 * 32


@pytest.mark.parametrize(
    "options",
    [
        {"distance_weight": -1.0},
        {"angle_weight": float("nan")},
        {"distance_weight": 0.0, "angle_weight": 0.0},
        {"angle_block": -1},
    ],
)
def test_rkd__refuses_options_without_meaning(options: dict[str, float]) -> None:
    with pytest.raises(ProtoRKDError, match=r"of rkd must be .*; got"):
        build_objective("rkd", dim=7, **options)


def test_rkd__refuses_batches_of_other_lengths() -> None:
    student, teacher = pair(dtype=torch.float32)
    with pytest.raises(ProtoRKDError, match="equally many rows"):
        build_objective("rkd", dim=7)(student=student, teacher=teacher[1:])
