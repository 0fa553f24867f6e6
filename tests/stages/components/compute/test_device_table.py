from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from stages.components.compute import device_table
from stages.components.compute.device_table import DeviceTable, has_room, stream

CPU = torch.device("cpu")


def some_rows(num: int = 23, dim: int = 4) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("is_resident", [True, False])
@pytest.mark.parametrize("block_rows", [1, 5, 23, 100])
def test_blocks__are_all_rows_in_order(is_resident: bool, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_table, "_BLOCK_NUMBERS", 4 * block_rows)
    rows = some_rows()
    table = DeviceTable.of(rows, CPU, is_resident=is_resident)
    for _ in range(2):
        blocks = [block.clone() for block in table.blocks()]
        assert torch.equal(torch.cat(blocks), rows)
        assert [len(block) for block in blocks] == [len(part) for part in torch.split(rows, block_rows)]


@pytest.mark.parametrize("free", [100, 1000])
def test_has_room__leaves_half_of_a_gpu_free(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (free, 1 << 40))
    gpu = torch.device("cuda:1")
    assert has_room(free // 2 - 1, gpu)
    assert not has_room(free // 2, gpu)
    assert asked == [gpu, gpu]
    assert has_room(1 << 50, CPU)


class Device:
    """What torch offers of a device's streams; notes what is queued, and what waits for what."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.events: list[Device.Event] = []
        outer = self

        class Event:
            def __init__(self) -> None:
                self.number = len(outer.events)
                outer.events.append(self)

            def record(self, stream: Any) -> None:
                outer.log.append((f"{stream.name} records", self.number))

            def wait(self, stream: Any) -> None:
                outer.log.append((f"{stream.name} waits", self.number))

            def synchronize(self) -> None:
                outer.log.append(("host waits", self.number))

        class Stream:
            def __init__(self, device: torch.device) -> None:
                self.name = "aside"

            def wait_stream(self, other: Any) -> None:
                outer.log.append((f"{self.name} waits for all", other.name))

        self.Event, self.Stream = Event, Stream

    def current_stream(self, device: torch.device) -> Any:
        here = self.Stream(device)
        here.name = "here"
        return here

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.log.append((f"{stream.name} copies", None))
        yield


def noted(num_blocks: int, monkeypatch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> list[tuple[str, Any]]:
    """Return the log of a pass over so many blocks; what is queued on a block is called use."""
    fake = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    monkeypatch.setattr(device_table, "_BLOCK_NUMBERS", 4)
    for number, _ in enumerate(blocks := stream(some_rows(num_blocks), CPU)):
        fake.log.append(("use", number))
        if number == stop_after:
            blocks.close()
            break
    return fake.log


def test_stream__copies_a_block_while_the_one_before_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events 0 and 1: copied to the device; 2 and 3: used there; one for each of the two pieces of memory."""
    first, second, third = (
        [("host waits", 0), ("aside waits", 2), ("aside copies", None), ("aside records", 0)],
        [("host waits", 1), ("aside waits", 3), ("aside copies", None), ("aside records", 1)],
        [("host waits", 0), ("aside waits", 2), ("aside copies", None), ("aside records", 0)],
    )
    assert noted(3, monkeypatch) == [
        ("aside waits for all", "here"), *first, *second,
        ("here waits", 0), ("use", 0), ("here records", 2), *third,
        ("here waits", 1), ("use", 1), ("here records", 3),
        ("here waits", 0), ("use", 2), ("here records", 2),
        ("here waits for all", "aside"),
    ]  # fmt: skip


def test_stream__waits_for_copies_where_it_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    log = noted(5, monkeypatch, stop_after=1)
    assert log[-2:] == [("use", 1), ("here waits for all", "aside")]


def test_stream__uses_two_blocks_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_table, "_BLOCK_NUMBERS", 4)
    assert len({block.data_ptr() for block in stream(some_rows(9), CPU)}) == 2


@pytest.mark.gpu
def test_stream__brings_a_gpu_the_rows_while_it_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_table, "_BLOCK_NUMBERS", 1 << 16)
    rows, device = some_rows(20_000, 64), torch.device("cuda")
    busy, blocks = torch.randn(2048, 2048, device=device), []
    for block in stream(rows, device):
        for _ in range(5):
            busy = (busy @ busy).clamp(-1, 1)  # the block is read long after the host has asked for the next
        blocks.append(block + 0)
    assert torch.equal(torch.cat(blocks).cpu(), rows)
