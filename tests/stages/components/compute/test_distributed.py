"""Two real processes that have met over gloo against one that does all of it alone."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from workbench import on_ranks

from data_schemas.errors import ProtoRKDError
from pipeline.peers import SingleProcess
from stages.components.compute.device import choose_device
from stages.components.compute.distributed import Ranks, join_ranks, ranks_of
from stages.distill.objectives import WeightedObjectives, build_objective
from stages.distill.training.sync_batchnorm import sync_batchnorm

ROWS, DIM = 12, 8
CPU = torch.device("cpu")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own_part(rows: Tensor, ranks: Ranks) -> Tensor:
    return torch.tensor_split(rows, ranks.size)[ranks.rank]


def make_student(*, batchnorm: bool) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(16)] if batchnorm else []
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, DIM))


def gradients(ranks: Ranks, names: list[str], *, batchnorm: bool, rows: int = ROWS) -> list[np.ndarray]:
    """Gradients of student and objectives, and the running statistics, after a step over all ranks' rows."""
    student = sync_batchnorm(make_student(batchnorm=batchnorm), ranks, CPU)
    torch.manual_seed(1)
    objectives = WeightedObjectives({name: (0.5, build_objective(name, dim=DIM)) for name in names})
    forward = student if ranks.size == 1 else DistributedDataParallel(student, process_group=ranks.group)
    loss, _ = objectives(
        student=ranks.gather_rows(forward(own_part(draw(rows, 6, seed=2), ranks))),
        teacher=ranks.gather_rows(own_part(draw(rows, DIM, seed=3), ranks)),
    )
    loss.backward()
    trained = [*student.parameters(), *objectives.parameters()]
    seen = [loss.detach(), *student.buffers(), *(one.grad for one in trained if one.grad is not None)]
    return [tensor.numpy() for tensor in seen]


@pytest.mark.parametrize("names", [["infonce"], ["rkd", "simreg"], ["vicreg"], ["seed"], ["proto-rkd"]])
def test_ranks__two_give_the_gradients_of_one_with_the_whole_batch(names: list[str]) -> None:
    alone = gradients(Ranks(), names, batchnorm=False)
    for found in on_ranks(2, lambda ranks: gradients(ranks, names, batchnorm=False)):
        for ours, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [ROWS, 11])
def test_sync_batchnorm__makes_two_ranks_give_the_gradients_of_one(rows: int) -> None:
    alone = gradients(Ranks(), ["rkd"], batchnorm=True, rows=rows)
    for found in on_ranks(2, lambda ranks: gradients(ranks, ["rkd"], batchnorm=True, rows=rows)):
        for ours, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_batchnorm__of_each_ranks_own_part_gives_other_gradients() -> None:
    def unsynced(ranks: Ranks) -> np.ndarray:
        student = make_student(batchnorm=True)
        student(own_part(draw(ROWS, 6, seed=2), ranks)).square().sum().backward()
        return student[1].running_mean.numpy()

    first, second = on_ranks(2, unsynced)
    assert not np.allclose(first, second)


def test_sync_batchnorm__keeps_names_and_weights_and_evaluates_as_before() -> None:
    def synced(ranks: Ranks) -> tuple[list[str], np.ndarray]:
        student = sync_batchnorm(make_student(batchnorm=True), ranks, CPU).eval()
        copied = copy.deepcopy(student)
        return list(student.state_dict()), copied(draw(4, 6, seed=5)).detach().numpy()

    plain = make_student(batchnorm=True).eval()
    for names, embeddings in on_ranks(2, synced):
        assert names == list(plain.state_dict())
        np.testing.assert_allclose(embeddings, plain(draw(4, 6, seed=5)).detach().numpy(), rtol=1e-6)


def test_ranks__gather_uneven_rows_in_order() -> None:
    def gathered(ranks: Ranks) -> np.ndarray:
        own = torch.arange(3 * ranks.rank + 2)[:, None] + 100 * ranks.rank
        return ranks.gather_rows(own).numpy()

    expected = np.concatenate([np.arange(2), 100 + np.arange(5)])[:, None]
    assert all(np.array_equal(found, expected) for found in on_ranks(2, gathered))


def test_ranks__gather_tensors_of_any_types_together() -> None:
    wholes = [draw(7, 3, seed=0), draw(7, 5, seed=1).half(), torch.arange(7), draw(7, 2, 2, seed=2) > 0]

    def gathered(ranks: Ranks) -> list[np.ndarray]:
        parts = torch.split(torch.arange(7), [5, 2])[ranks.rank]
        return [tensor.numpy() for tensor in ranks.gather_together([whole[parts] for whole in wholes])]

    for found in on_ranks(2, gathered):
        for ours, whole in zip(found, wholes, strict=True):
            assert ours.dtype == whole.numpy().dtype
            assert np.array_equal(ours, whole.numpy())


def test_ranks__gather_nothing() -> None:
    empty = on_ranks(2, lambda ranks: ranks.gather_rows(torch.empty(0, 3)).numpy())
    assert [found.shape for found in empty] == [(0, 3)] * 2


def test_ranks__share_the_state_of_the_first() -> None:
    def shared(ranks: Ranks) -> list[np.ndarray]:
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        for number, tensor in enumerate(module.state_dict().values()):
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor) + 10 * number + 1000 * ranks.rank)
        ranks.share_state([module])
        assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
        return [tensor.numpy() for tensor in module.state_dict().values()]

    first, second = on_ranks(2, shared)
    for number, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        assert np.array_equal(ours.ravel(), np.arange(ours.size) + 10 * number)
        assert np.array_equal(ours, theirs)


def test_ranks__exchange_and_broadcast() -> None:
    def talk(ranks: Ranks) -> tuple[list[list[int]], list[dict[int, str]], str]:
        numbers = ranks.exchange([ranks.rank, 7])
        objects = ranks.gather_objects({ranks.rank: "bad"})
        return numbers, objects, ranks.broadcast(f"said by {ranks.rank}")

    assert on_ranks(2, talk) == [([[0, 7], [1, 7]], [{0: "bad"}, {1: "bad"}], "said by 0")] * 2


def test_ranks__say_that_another_process_has_ended() -> None:
    def talk(ranks: Ranks) -> str:
        if ranks.is_first:
            return ""
        with pytest.raises(ProtoRKDError) as caught:
            ranks.broadcast(None)
        return str(caught.value)

    assert "Another process of this run has ended" in on_ranks(2, talk)[1]


def test_choose_device__says_that_there_are_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(ProtoRKDError, match=r"got auto in process 99 of this machine\. Start no more processes than"):
        choose_device("auto")


def test_ranks__of_a_process_alone_change_nothing() -> None:
    ranks = ranks_of(SingleProcess())
    rows = draw(3, 2, seed=0)
    assert ranks.is_first
    assert ranks.gather_rows(rows) is rows
    assert ranks.exchange([4, 2]) == [[4, 2]]
    assert ranks.gather_objects("it") == ["it"]
    assert ranks.broadcast("it") == "it"


def test_join_ranks__says_what_to_check_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        monkeypatch.delitem(os.environ, name, raising=False)
    with pytest.raises(ProtoRKDError, match="Start them with torchrun"):
        join_ranks()
