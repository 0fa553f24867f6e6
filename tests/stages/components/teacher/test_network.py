"""The teacher's network on a device: batches launched ahead, and waited for once."""

import threading
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from workbench import counted_captions

from data_schemas.errors import ProtoRKDError
from stages.components.teacher import network as teacher_network
from stages.components.teacher.batching import Batch
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.network import TeacherNetwork
from stages.components.teacher.teacher import Teacher

LENGTHS = (1, 2, 5)


class Sums(nn.Module):
    """Sums a caption's token ids; it adds to the features that it is given, as sentence-transformers' modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        ids = features["input_ids"]
        self.seen.append(ids.shape[1])
        features["sentence_embedding"] = torch.stack([ids.sum(dim=1), -ids.sum(dim=1), ids[:, 0]], dim=1)
        return features


def batches() -> list[Batch]:
    """Make batches of two captions each, the shortest first; together 6 captions in mixed order."""
    rows = np.array([[4, 0], [2, 5], [1, 3]])
    return [
        Batch(row, {"input_ids": torch.full((2, length), length) * torch.tensor([[1], [10]]), "modality": "text"})
        for row, length in zip(rows, LENGTHS, strict=True)
    ]


EXPECTED = [[10, -10], [25, -25], [4, -4], [250, -250], [1, -1], [40, -40]]


def test_network__gives_rows_in_their_order_and_tells_of_each_batch() -> None:
    network, told = Sums(), list[int]()
    requested = batches()
    wait = TeacherNetwork(network, torch.device("cpu"), dim=2).start(requested, advance=told.append)
    assert (network.seen, told) == ([5, 2, 1], [2, 2, 2])  # the longest first, before anyone waits
    embeddings = wait()
    assert (embeddings.dtype, embeddings.tolist()) == (np.float32, EXPECTED)
    assert all(set(batch.features) == {"input_ids", "modality"} for batch in requested)


def test_network__of_no_batches_gives_no_rows() -> None:
    assert TeacherNetwork(Sums(), torch.device("cpu"), dim=2).start([], advance=_nobody)().shape == (0, 2)


def test_network__whose_memory_is_full_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    network = Sums()
    monkeypatch.setattr(network, "forward", full)
    with pytest.raises(ProtoRKDError, match=r"--batch-tokens must leave room.*Tried to allocate 9\.00 GiB"):
        TeacherNetwork(network, torch.device("cpu"), dim=2).start(batches(), advance=_nobody)


class _Sent(Tensor):
    """A tensor that plays one on a GPU."""

    log: list[str]

    def record_stream(self, stream: object) -> None:
        self.log.append("held")


class _FakeGpu:
    """What CUDA is asked for, in order; it computes on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        monkeypatch.setattr(teacher_network, "send", self.send)
        for name in ("Stream", "stream", "current_stream", "Event"):
            monkeypatch.setattr(torch.cuda, name, lambda *_, **__: self)

    def send(self, tensor: Tensor, device: torch.device) -> Tensor:
        self.log.append(f"sent {tensor.shape[1]} to {device}")
        sent = tensor.as_subclass(_Sent)
        sent.log = self.log
        return sent

    def __enter__(self) -> None:
        self.log.append("aside")

    def __exit__(self, *_: object) -> None:
        self.log.append("back")

    def wait_stream(self, _stream: object) -> None:
        self.log.append("ordered")

    def record(self, _stream: object) -> None:
        self.log.append("marked")

    def synchronize(self) -> None:
        self.log.append("waited")


def test_network__on_a_gpu_sends_ahead_and_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, network = _FakeGpu(monkeypatch), Sums()
    monkeypatch.setattr(network, "seen", gpu.log)
    start = TeacherNetwork(network, torch.device("cuda:1"), dim=2).start
    first, second = (start(batches(), advance=_nobody) for _ in range(2))
    longest_first = [("aside", f"sent {length} to cuda:1", "back", "ordered", "held", length) for length in (5, 2, 1)]
    assert gpu.log == 2 * [*chain.from_iterable(longest_first), "marked"]
    gpu.log.clear()
    assert [first().tolist(), second().tolist()] == [EXPECTED, EXPECTED]
    assert gpu.log == ["waited", "waited"]


def _nobody(_captions: int) -> None:
    pass


def gpu_teacher(folder: Path, devices: Sequence[str] = ("cuda",), **options: Any) -> Teacher:
    return Teacher(find_teacher(str(folder)), devices=devices, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["bert_folder", "word_vectors"])
def test_teacher__on_a_gpu_gives_what_the_cpu_gives(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    captions = [*counted_captions(3000), "", "red circle " * 40]
    expected = Teacher(find_teacher(str(folder))).encode(captions)
    for batch_tokens in (0, 500):
        given = gpu_teacher(folder).encode(captions, batch_tokens=batch_tokens)
        np.testing.assert_allclose(given, expected, atol=1e-5)


@pytest.mark.gpu
def test_teacher__on_a_gpu_in_bf16_is_near(bert_folder: Path) -> None:
    captions = counted_captions(500)
    teacher = gpu_teacher(bert_folder, precision="bf16", sample=captions[:50])
    assert 0.98 < teacher.nearness["fp32_cosine_min"] < 1
    assert np.isfinite(teacher.encode(captions)).all()


@pytest.mark.gpu
def test_teacher__of_two_processes_on_a_gpu_gives_what_one_gives(bert_folder: Path) -> None:
    captions = counted_captions(3000)
    with gpu_teacher(bert_folder, ("cuda:0", "cuda:0")) as shared:
        np.testing.assert_array_equal(shared.encode(captions), gpu_teacher(bert_folder).encode(captions))


@pytest.mark.gpu
def test_network__does_not_wait_for_a_gpu_before_it_is_asked() -> None:
    network = TeacherNetwork(Sums(), torch.device("cuda"), dim=2)
    for mode in ("default", "error"):  # the first time, memory is still to be found
        torch.cuda.set_sync_debug_mode(mode)
        try:
            wait = network.start(batches(), advance=_nobody)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert wait().tolist() == EXPECTED


@pytest.mark.gpu
def test_network__on_a_gpu_is_waited_for_by_another_thread(bert_folder: Path) -> None:
    teacher = gpu_teacher(bert_folder)
    requested: list[Any] = []
    tokens = [teacher.tokenize(pa.array(counted_captions(num))) for num in (2000, 1000, 3000)]
    waits: list[Callable[[], Any]] = [teacher.start(each) for each in tokens]
    thread = threading.Thread(target=lambda: requested.extend(wait() for wait in waits))
    thread.start()
    thread.join()
    for each, embeddings in zip(tokens, requested, strict=True):
        np.testing.assert_array_equal(embeddings, teacher.embed(each))
