"""How long and how fast: which epochs are kept, and what the learning rate is at a step."""

import pytest

from stages.distill.training.settings import Schedule


def schedule(**options: int) -> Schedule:
    numbers = {"epochs": 5, "lr": 0.1, "warmup_steps": 2, "max_grad_norm": 0.0, "save_every_epochs": 2, "seed": 0}
    return Schedule(**{**numbers, **options})


@pytest.mark.parametrize(("save_every_epochs", "kept"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_schedule__keeps_weights_every_so_many_epochs_and_after_the_last(
    save_every_epochs: int, kept: list[int]
) -> None:
    assert [epoch for epoch in range(1, 6) if schedule(save_every_epochs=save_every_epochs).keeps(epoch)] == kept


def test_schedule__rises_to_the_peak_and_falls_to_zero() -> None:
    rates = [schedule().learning_rate(step, total_steps=6) for step in range(7)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.085355, 0.05, 0.014645, 0.0], rel=1e-4)
