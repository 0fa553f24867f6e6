"""Smoothed targets against their formula, and at the limits where the formula says what has to come out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from workbench import DISTILL, Cli, Pairs

from stages.distill.data.target_smoothing import TargetSmoothing
from stages.distill.data.targets import Targets

DIM = 6


def draw(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def test_smoothing__is_its_formula() -> None:
    landmarks, teacher = draw(9, 0), draw(4, 1)
    found = TargetSmoothing(landmarks, share=0.3, temperature=0.2)(teacher)
    for row, target in zip(found, teacher, strict=True):
        own = [float(x) / math.sqrt(sum(float(y) ** 2 for y in target)) for x in target]
        units = [[float(x) / float(one.norm()) for x in one] for one in landmarks]
        weights = [math.exp(sum(a * b for a, b in zip(own, one, strict=True)) / 0.2) for one in units]
        mean = [sum(weight * one[axis] for weight, one in zip(weights, units, strict=True)) for axis in range(DIM)]
        length = math.sqrt(sum(x * x for x in mean))
        mixed = torch.tensor([0.7 * a + 0.3 * b / length for a, b in zip(own, mean, strict=True)])
        torch.testing.assert_close(row, normalize(mixed, dim=0))


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 0.1), (1.0, 1e-3)])
def test_smoothing__leaves_captions_of_the_corpus_where_it_has_no_share_or_sees_no_neighbour(
    share: float, temperature: float
) -> None:
    captions = draw(12, 2)
    found = TargetSmoothing(captions, share=share, temperature=temperature)(captions[:5])
    torch.testing.assert_close(found, normalize(captions[:5], dim=1))


def test_smoothing__brings_likely_captions_together() -> None:
    centres = draw(2, 3).repeat_interleave(20, dim=0)
    captions = centres + 0.3 * draw(40, 4)
    found = TargetSmoothing(captions, share=0.5, temperature=0.1)(captions)
    before, after = (normalize(rows, dim=1)[:20].std(dim=0).mean() for rows in (captions, found))
    assert after < 0.7 * before


def test_smoothing__takes_a_fixed_sample_of_a_larger_corpus() -> None:
    targets = Targets(draw(50, 5).half(), torch.device("cpu"))
    first, second = (TargetSmoothing.over(targets, share=0.5, temperature=0.1, num_landmarks=size) for size in (10, 10))
    whole = TargetSmoothing.over(targets, share=0.5, temperature=0.1, num_landmarks=50)
    assert torch.equal(first(draw(3, 6)), second(draw(3, 6)))
    assert not torch.allclose(first(draw(3, 6)), whole(draw(3, 6)))


def test_distill__smooths_targets_when_asked(encoded: Pairs, run_cli: Cli) -> None:
    plain = run_cli(*DISTILL, "--epochs", 1)
    smoothed = run_cli(*DISTILL, "--epochs", 1, "--target-smoothing", 0.5)
    assert smoothed["digest"] != plain["digest"]
    assert "--target-smoothing must lie between 0 and 1; got 2" in run_cli.fails(*DISTILL, "--target-smoothing", 2)


def test_smoothing__is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks, teacher = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    smooth = TargetSmoothing(landmarks, share=0.5, temperature=0.1)
    whole = smooth(teacher)
    monkeypatch.setattr("stages.distill.data.target_smoothing._MOST_RELATIONS", 40 * 7)
    torch.testing.assert_close(smooth(teacher), whole)
