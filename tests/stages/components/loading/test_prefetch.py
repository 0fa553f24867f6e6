"""Results come back in order, a GPU's one batch late, and are those of a batch that is waited for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.components.loading import prefetch
from stages.components.loading.batch import Batch
from stages.components.loading.prefetch import results_on_cpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZES = (4, 4, 0, 4, 1)  # of one no image could be read, and the last is short


def batches(events: list[str]) -> Iterator[Batch]:
    for number, size in enumerate(SIZES):
        events.append(f"read {number}")
        images = torch.randint(256, (size, 3, 8, 8), generator=torch.Generator().manual_seed(number)).byte()
        yield Batch(images=images, rows=10 * number + torch.arange(size), rejected={})


def double(events: list[str], images: Tensor) -> list[Tensor]:
    events.append(f"compute {sum(event.startswith('compute') for event in events)}")
    return [images.double(), 2 * images.double()]


def run(device: torch.device) -> list[str]:
    """Return what happens until all results are there; they are held to what they should be."""
    events: list[str] = []
    found = results_on_cpu(batches(events), lambda images: double(events, images), device)
    for number, (expected, (batch, results)) in enumerate(zip(batches([]), found, strict=True)):
        events.append(f"use {number}")
        assert torch.equal(batch.rows, expected.rows)
        assert all(torch.equal(result, factor * expected.images.double()) for factor, result in enumerate(results, 1))
    return events


def test_results__come_at_once_from_a_cpu() -> None:
    assert run(CPU) == [f"{what} {number}" for number in range(5) for what in ("read", "compute", "use")]


def test_results__come_one_late_from_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order, on a CPU that is taken for a GPU: nothing of CUDA is called."""
    waits: list[str] = []

    class Event:
        def __init__(self, **_: Any) -> None:
            self.stream = "none"

        def record(self, stream: str) -> None:
            self.stream = stream

        def synchronize(self) -> None:
            waits.append(self.stream)

    monkeypatch.setattr(prefetch, "prefetch_to_device", lambda batches, device: batches)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the one that computes on {device}")
    assert run(CUDA) == [
        *("read 0", "compute 0", "read 1", "compute 1", "use 0", "read 2", "compute 2", "use 1"),
        *("read 3", "compute 3", "use 2", "read 4", "compute 4", "use 3", "use 4"),
    ]
    assert waits == ["the one that computes on cuda"] * len(SIZES)


@pytest.mark.gpu
@torch.no_grad()
def test_results__from_a_gpu_are_those_that_are_waited_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 6 * 6, 512)).to(CUDA)

    def compute(images: Tensor) -> list[Tensor]:
        return [model(images.to(CUDA).float())]

    pinned = [batch.pin_memory() for batch in batches([])] * 20
    found = [result for _, [result] in results_on_cpu(pinned, compute, CUDA)]
    assert len(found) == len(pinned)
    for result, batch in zip(found, pinned, strict=True):
        assert torch.equal(result, compute(batch.images)[0].cpu())
        assert result.is_pinned() or not len(result)
