"""Measure every objective: time and peak memory of forward and backward."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import attempted, peak_memory, pipelined, waited
from stages.distill.data.targets import Targets
from stages.distill.objectives import OBJECTIVES, WeightedObjectives, build_objective

_CORPUS_SHARE = 5  # one in so many rows is used

Case = tuple[str, dict[str, Any]]


def objectives(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time every objective as it comes, and some with the options that change most."""
    device, dim = setup.device, setup.sizes.dim
    table = torch.randn(setup.sizes.num_rows // _CORPUS_SHARE, dim, device=device).half()
    corpus = Targets(table, device, placement="device" if device.type == "cuda" else "ram")
    for name, options in _cases(is_tiny=setup.is_tiny):
        label = " ".join([name, *(f"{option}={value}" for option, value in options.items())])
        yield {label: attempted(_measured, setup, corpus, name, options)}


def _cases(*, is_tiny: bool) -> list[Case]:
    """List objectives and options; with tiny queues and prototypes where nothing is to be measured."""
    sizes: dict[str, dict[str, int]] = {}
    if is_tiny:
        sizes = {name: {"queue_size": 64} for name in ("seed", "compress-1q", "compress-2q")}
        sizes |= {name: {"num_prototypes": 64} for name in ("dino", "protocpc")}
    return [
        *((name, dict(sizes.get(name, {}))) for name in OBJECTIVES),
        ("infonce", {"corpus_negatives": 32 if is_tiny else 65_536}),
        ("seed", {**sizes.get("seed", {}), "negatives": "corpus"}),
        ("proto-rkd", {"structure_weight": 0.5, "structure_prototypes": 16 if is_tiny else 256}),
        ("proto-rkd", {"num_prototypes": 20 if is_tiny else 20_000}),
    ]


def _measured(setup: Setup, corpus: Targets, name: str, options: dict[str, Any]) -> dict[str, float]:
    device, dim, num = setup.device, setup.sizes.dim, setup.sizes.objective_batch

    def prototypes(num_prototypes: int) -> Tensor:
        return normalize(torch.randn(min(num_prototypes, corpus.num_captions), dim, device=device), dim=1)

    objective = build_objective(name, dim=dim, corpus=corpus, prototypes=prototypes, **options)
    weighted = WeightedObjectives({name: (1.0, objective)}).to(device).train()
    student = torch.randn(num, dim, device=device, requires_grad=True)
    teacher, rows = torch.randn(num, dim, device=device), torch.arange(num, device=device)
    beside = {"rows": rows, "labels": torch.full_like(rows, -1), "features": teacher}

    def step() -> None:
        student.grad = None
        weighted(student=student, teacher=teacher, **beside)[0].backward()

    return {
        "ms": 1000 * pipelined(step, times=setup.sizes.times),
        "waited_ms": 1000 * waited(step, times=setup.sizes.times),
        **peak_memory(),
    }
