"""How many processes read, and how far ahead: a function of batches, memory, and of who else is on the machine."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stages.components.loading.num_workers import fit_readers, num_workers, plan_reading

MB, GB = 1e6, 1e9
CROPS = 3 * 224**2


@pytest.fixture
def shared_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let /dev/shm have so many bytes free, of twice as many."""

    def have(free: float) -> None:
        found = SimpleNamespace(f_frsize=1, f_bavail=int(free), f_bfree=int(free), f_blocks=int(2 * free))
        monkeypatch.setattr(os, "statvfs", lambda path: found if str(path) == "/dev/shm" else None)

    return have


@pytest.mark.parametrize(
    ("cores", "num_local", "expected"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (64, 1, 8), (64, 8, 7), (128, 8, 8), (16, 8, 1), (4, 8, 1)],
)
def test_num_workers__shares_the_cores_between_the_processes_of_a_machine(
    cores: int, num_local: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_local))
    assert num_workers(-1) == expected
    assert num_workers(5) == 5


@pytest.mark.parametrize(
    ("batch_bytes", "workers", "free_bytes", "num_local", "expected"),
    [
        (64 * 3 * 64**2, 8, 64 * MB, 1, (8, 4)),  # small batches: even Docker's /dev/shm has room for all
        (256 * CROPS, 8, 100 * GB, 1, (8, 4)),
        (1024 * CROPS, 8, 100 * GB, 1, (8, 1)),  # 2 GB
        (1024 * CROPS, 4, 100 * GB, 1, (4, 3)),
        (4096 * CROPS, 8, 100 * GB, 1, (3, 1)),
        (3 * GB, 8, 100 * GB, 1, (1, 1)),  # one has to be read
        (256 * CROPS, 8, 64 * MB, 1, (0, 1)),  # but not through a memory in which it has no room
        (30 * MB, 8, 64 * MB, 1, (0, 1)),  # one has room, but not beside the two in use
        (128 * CROPS, 8, 67.1 * MB, 1, (1, 1)),
        (256 * CROPS, 8, 16 * GB, 8, (8, 3)),
        (256 * CROPS, 8, 2 * GB, 8, (3, 1)),
        (256 * CROPS, 0, 2 * GB, 8, (0, 3)),
        (0, 8, 64 * MB, 1, (8, 4)),
    ],
)
def test_plan_reading__keeps_what_waits_within_memory(
    batch_bytes: float, workers: int, free_bytes: float, num_local: int, expected: tuple[int, int]
) -> None:
    fitting, ahead = plan_reading(batch_bytes, workers=workers, free_bytes=free_bytes, num_local=num_local)
    assert (fitting, ahead) == expected
    assert fitting == 1 or fitting * ahead * batch_bytes <= min(2 * GB, free_bytes / num_local / 2)


def test_fit_readers__says_once_why_there_are_fewer(
    shared_memory: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, caplog: Any, quiet_log: None
) -> None:
    caplog.set_level("INFO", logger="protorkd")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    shared_memory(500 * MB)
    assert fit_readers(8, batch_bytes=50 * MB) == (2, 1)
    assert fit_readers(8, batch_bytes=50 * MB) == (2, 1)
    shared_memory(100 * GB)
    assert fit_readers(8, batch_bytes=50 * MB) == (8, 4)
    assert fit_readers(8, batch_bytes=500 * MB) == (4, 1)
    assert caplog.messages == [
        "2 processes read images, not 8: a batch takes 50.0 MB, and they wait in /dev/shm, of 1.0 GB: enlarge it, or "
        "free some of it",
        "4 processes read images, not 8: a batch takes 500.0 MB, and 2.0 GB of them may wait for their use",
    ]


def test_fit_readers__goes_without_shared_memory_that_the_system_does_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.components.loading.num_workers._SHARED_MEMORY", "/no/such/folder")
    assert fit_readers(8, batch_bytes=50 * MB) == (8, 4)
