"""Compare RKD from the Gram matrix, block by block, with the formula as the paper's code writes it."""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import Comparison, compare_peak_memory, compare_time
from benchmarks.settings import Settings
from stages.distill.objectives.rkd import RKDLoss


def compare(settings: Settings) -> list[Comparison]:
    """Compare at a batch of 256, whose angles fit into memory."""
    return compare_rkd(batch_size=256, dim=384, num_pairs=settings.num_pairs)


def compare_rkd(*, batch_size: int, dim: int, num_pairs: int) -> list[Comparison]:
    """Compare time and memory of one forward and backward pass, after a check that both give the same gradient.

    Args:
        batch_size: Embeddings on each side.
        dim: Width of the embeddings.
        num_pairs: Timed pairs of calls.
    """
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(batch_size, dim, generator=generator)
    start = torch.randn(batch_size, dim, generator=generator)
    objective = RKDLoss()

    def ours() -> Tensor:
        student = start.clone().requires_grad_()
        return torch.autograd.grad(objective(student=student, teacher=teacher), student)[0]

    def direct() -> Tensor:
        student = start.clone().requires_grad_()
        return torch.autograd.grad(direct_rkd(student=student, teacher=teacher), student)[0]

    torch.testing.assert_close(ours(), direct(), rtol=1e-3, atol=1e-7)
    subject, name = f"rkd, {batch_size} x {dim}, forward and backward", "the direct formula"
    return [
        compare_time(f"{subject}: time", baseline_name=name, baseline=direct, ours=ours, num_pairs=num_pairs),
        compare_peak_memory(f"{subject}: peak memory", baseline_name=name, baseline=direct, ours=ours),
    ]


def direct_rkd(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Compute arXiv:1904.05068's loss with all differences and angles at once: (batch, batch, dim), (batch,) * 3."""
    with torch.no_grad():
        teacher_distances, teacher_angles = _relative_distances(teacher), _angles(teacher)
    distance_loss = functional.smooth_l1_loss(_relative_distances(student), teacher_distances)
    return 0.5 * distance_loss + functional.smooth_l1_loss(_angles(student), teacher_angles)


def _relative_distances(embeddings: Tensor) -> Tensor:
    squares = embeddings.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2 * embeddings @ embeddings.T
    others = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    distances = squared.clamp_min(1e-12).sqrt() * others
    return distances / (distances.sum() / (len(distances) * (len(distances) - 1)))


def _angles(embeddings: Tensor) -> Tensor:
    directions = functional.normalize(embeddings[None, :, :] - embeddings[:, None, :], dim=2)
    return directions @ directions.transpose(1, 2)
