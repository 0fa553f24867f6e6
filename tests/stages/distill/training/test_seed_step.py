"""The random numbers of a step are functions of seed, step and rank, and seeding leaves nothing behind."""

import torch

from stages.distill.training.step import seed_step

CPU = torch.device("cpu")


def drawn(*, seed: int = 0, step: int = 0, rank: int = 0) -> list[float]:
    seed_step(CPU, seed=seed, step=step, rank=rank)
    numbers: list[float] = torch.rand(3).tolist()
    return numbers


def test_seed_step__tells_seeds_steps_and_ranks_apart() -> None:
    assert drawn() == drawn()
    assert len({tuple(numbers) for numbers in (drawn(), drawn(seed=1), drawn(step=1), drawn(rank=1))}) == 4


def test_seed_step__draws_on_a_cpu_what_torch_draws_from_that_seed() -> None:
    numbers = drawn()
    torch.manual_seed(torch.initial_seed())
    assert torch.rand(3).tolist() == numbers


def test_seed_step__queues_nothing_for_devices_that_are_not_in_use() -> None:
    before = len(torch.cuda._queued_calls)
    drawn()
    assert len(torch.cuda._queued_calls) == before
