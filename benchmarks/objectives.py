"""Measure every objective: time and memory of a step, beside its matrix products and the direct formula."""

import argparse
import inspect
import statistics
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure import Comparison, compare_time, peak_memory
from benchmarks.measure import seconds as measure_seconds
from benchmarks.rkd import direct_rkd
from benchmarks.settings import Settings
from stages.distill.objectives import OBJECTIVES, build_objective

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Cost:
    """What a step of an objective costs, beyond what it holds between steps.

    Args:
        name: Name of the objective.
        seconds: Median seconds of forward and backward.
        products: Median seconds of the matrix products that these need; 0 where they need none.
        megabytes: Peak of torch's memory beside the objective's state and its arguments.
        direct_megabytes: The same of the direct formula, counted from shapes; None where ours is the direct formula.
    """

    name: str
    seconds: float
    products: float
    megabytes: float
    direct_megabytes: float | None


def compare(settings: Settings) -> list[Comparison]:
    """Compare one objective of every kind with the matrix products that it needs, each at a size that is quick."""
    sizes = {
        "infonce": (1024, 768),
        "unicl": (1024, 768),
        "proto-rkd": (1024, 768),
        "vicreg": (1024, 768),
        "seed": (256, 384),
        "compress-2q": (256, 384),
        "dino": (256, 384),
        "rkd": (256, 384),
    }
    return [
        compare_objective(name, batch_size=batch_size, dim=dim, num_pairs=settings.num_pairs)
        for name, (batch_size, dim) in sizes.items()
    ]


def compare_objective(name: str, *, batch_size: int, dim: int, num_pairs: int) -> Comparison:
    """Compare forward and backward of an objective with the matrix products in it, at the options it comes with."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch_size, dim, generator=generator).unbind()
    torch.manual_seed(0)
    step = _step(build_objective(name, dim=dim), student=student, teacher=teacher)
    products = needed_products(name, batch_size=batch_size, dim=dim)
    step()
    products()
    return compare_time(
        f"{name}, {batch_size} x {dim}, forward and backward",
        baseline_name="its matrix products",
        baseline=products,
        ours=step,
        num_pairs=num_pairs,
        bar=round(1 / 1.5, 3),
    )


def objective_costs(*, batch_size: int, dim: int, num_runs: int) -> list[Cost]:
    """Measure every objective, on the CPU, at the options that it comes with."""
    generator = torch.Generator().manual_seed(0)
    teacher = functional.normalize(torch.randn(batch_size, dim, generator=generator), dim=1)
    start = functional.normalize(torch.randn(batch_size, dim, generator=generator), dim=1)
    costs = []
    for name in sorted(OBJECTIVES):
        torch.manual_seed(0)
        objective = build_objective(name, dim=dim)
        step = _step(objective, student=start, teacher=teacher)
        products = needed_products(name, batch_size=batch_size, dim=dim)
        step()
        products()
        times = [(measure_seconds(step), measure_seconds(products)) for _ in range(num_runs)]
        seconds, products_s = map(statistics.median, zip(*times, strict=True))
        direct = DIRECT.get(name)
        counted = peak_memory_of_shapes(direct, batch_size=batch_size, dim=dim) / 1e6 if direct else None
        costs.append(Cost(name, seconds, products_s if PRODUCTS[name] else 0.0, peak_memory(step) / 1e6, counted))
    return costs


def costs_table(costs: list[Cost]) -> str:
    """Write a line per objective, in Markdown."""
    lines = [
        "| objective | seconds a step | products alone | ratio | peak MB | direct formula, MB | ratio |",
        "|---" * 7 + "|",
    ]
    for cost in costs:
        direct = "" if cost.direct_megabytes is None else f"{cost.direct_megabytes:,.0f}"
        ratio = "" if cost.direct_megabytes is None else f"{cost.direct_megabytes / cost.megabytes:.1f}"
        products = f"{cost.products:.3g} | {cost.seconds / cost.products:.2f}" if cost.products else " | "
        memory = f"{cost.megabytes:,.0f} | {direct} | {ratio}"
        lines.append(f"| `{cost.name}` | {cost.seconds:.3g} | {products} | {memory} |")
    return "\n".join(lines)


def needed_products(name: str, *, batch_size: int, dim: int) -> Callable[[], object]:
    """Make a function that does the matrix products of an objective's forward and backward, and nothing else."""
    sizes = {"batch": batch_size, "dim": dim, "many": _MANY}
    left_right_out = []
    for rows, columns, inner in PRODUCTS[name]:
        left, right = torch.randn(sizes[rows], sizes[inner]), torch.randn(sizes[inner], sizes[columns])
        if inner == "dim":  # embeddings against embeddings, which lie in rows; a gradient is multiplied with them as is
            right = right.T.contiguous().T
        left_right_out.append((left, right, torch.empty(sizes[rows], sizes[columns])))
    num_vertices = batch_size if name in _FOR_EACH_VERTEX else 0
    vertices = torch.randn(batch_size, dim)
    angles = torch.empty(batch_size, batch_size)

    def run() -> None:
        for left, right, out in left_right_out:
            torch.mm(left, right, out=out)
        for _ in range(4 * num_vertices):  # student and teacher forward, two factors backward
            torch.mm(vertices, vertices.T, out=angles)

    return run


def peak_memory_of_shapes(loss: Loss, *, batch_size: int, dim: int) -> int:
    """Count the most bytes that forward and backward of a loss hold at a time, without allocating them.

    The loss runs on tensors that have shapes and no content, so that it may be larger than any machine.
    """
    student = torch.empty(batch_size, dim, device="meta", requires_grad=True)
    teacher = torch.empty(batch_size, dim, device="meta")
    with _Storages() as storages:
        torch.autograd.grad(loss(student=student, teacher=teacher), student)
        peak: int = storages.peak
    return peak


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note the storages of what it returns."""
        result = function(*args, **(kwargs or {}))
        arguments = {_identity(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _identity(leaf) not in arguments | self._alive.keys():
                storage = leaf.untyped_storage()
                self._alive[_identity(leaf)] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, _identity(leaf), None)
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _direct_queue(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Score against a queue as published code does: the queue copied, own score and queue scores joined."""
    queue = torch.empty(65536, student.shape[1], device=student.device)
    copied = queue.clone()
    student, teacher = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
    own = (student * teacher).sum(dim=1, keepdim=True)
    scores = torch.cat([own, student @ copied.T], dim=1) / 0.07
    with torch.no_grad():
        own_teacher = (teacher * teacher).sum(dim=1, keepdim=True)
        target = functional.softmax(torch.cat([own_teacher, teacher @ copied.T], dim=1) / 1e-4, dim=1)
    return -(target * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()


_MANY = 65536  # rows of a queue, or prototypes, by default

# Rows, columns and inner width of the matrix products that forward and backward to the student and to what trains
# beside it cannot do without; the teacher has no gradient. A symmetric product has one factor's gradient, not two.
_PAIRS = ("batch", "batch", "dim")
_FORWARD, _BACKWARD = ("batch", "many", "dim"), ("batch", "dim", "many")
PRODUCTS: dict[str, list[tuple[str, str, str]]] = {
    "barlow-twins": [("dim", "dim", "batch"), ("batch", "dim", "dim")],
    "compress-1q": [_FORWARD, _FORWARD, _BACKWARD],
    "compress-2q": [_FORWARD, _FORWARD, _BACKWARD],
    "cross-entropy": [_PAIRS, ("batch", "dim", "batch")],
    "dino": [_FORWARD, _FORWARD, _BACKWARD, ("many", "dim", "batch")],
    "infonce": [_PAIRS, ("batch", "dim", "batch")],
    "proto": [_PAIRS, _PAIRS, ("batch", "dim", "batch")],
    "proto-rkd": [_PAIRS, _PAIRS, ("batch", "dim", "batch")],
    "protocpc": [_FORWARD, _FORWARD, _BACKWARD, ("many", "dim", "batch")],
    "rkd": [_PAIRS, _PAIRS, ("batch", "dim", "batch")],
    "seed": [_FORWARD, _FORWARD, _BACKWARD],
    "siglip": [_PAIRS, ("batch", "dim", "batch")],
    "simreg": [],
    "simreg-l1": [],
    "simreg-smooth-l1": [],
    "structure": [_PAIRS, _PAIRS, ("batch", "dim", "batch")],
    "unicl": [_PAIRS, ("batch", "dim", "batch")],
    "vicreg": [("dim", "dim", "batch"), ("batch", "dim", "dim")],
}
# Its angles are a product of (batch, dim) with itself for every vertex, in the formula; ours never forms them.
_FOR_EACH_VERTEX = {"rkd"}

DIRECT: dict[str, Loss] = {"rkd": direct_rkd, "seed": _direct_queue}


def _step(objective: torch.nn.Module, *, student: Tensor, teacher: Tensor) -> Callable[[], object]:
    known = {"rows": torch.arange(len(teacher)), "features": teacher}  # by the engine
    taken = {name: value for name, value in known.items() if name in inspect.signature(objective.forward).parameters}

    def step() -> None:
        leaf = student.clone().requires_grad_()
        objective.zero_grad(set_to_none=True)
        objective(student=leaf, teacher=teacher, **taken).backward()

    return step


def main() -> None:
    """Print what a step of every objective costs on the CPU, at one batch size and width."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives", description=main.__doc__)
    parser.add_argument("--batch-size", type=int, default=1024, help="Embeddings on each side.")
    parser.add_argument("--dim", type=int, default=768, help="Their width.")
    parser.add_argument("--runs", type=int, default=3, help="Timed steps of each objective.")
    options = parser.parse_args()
    print(costs_table(objective_costs(batch_size=options.batch_size, dim=options.dim, num_runs=options.runs)))


if __name__ == "__main__":
    main()
