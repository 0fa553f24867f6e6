from typing import Any

import pytest
import torch

from stages.evaluate.metrics.logistic_regression import SOLVERS, LinearClassifier, fit_by_sklearn, fit_by_torch


def problem(num_classes: int, *, dim: int = 6) -> dict[str, Any]:
    """Return what a solver takes: overlapping classes, of unlike sizes."""
    generator = torch.Generator().manual_seed(num_classes)
    labels = (torch.rand(60, generator=generator).square() * num_classes).long()
    labels[: 2 * num_classes] = torch.arange(num_classes).repeat(2)
    features = torch.randn(num_classes, dim, generator=generator)[labels] + 1.5 * torch.randn(
        60, dim, generator=generator
    )
    return {
        "features": (features - features.mean(dim=0)) / features.std(dim=0),
        "labels": labels,
        "start": LinearClassifier.zeros(num_classes=num_classes, dim=dim, device=torch.device("cpu")),
    }


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("l2_weight", [1e-2, 1.0, 1e4])
def test_fit_linear_classifier__is_the_same_by_torch_and_by_scikit_learn(num_classes: int, l2_weight: float) -> None:
    asked = problem(num_classes) | {"l2_weight": l2_weight, "tolerance": 1e-6}
    by_torch, by_sklearn = fit_by_torch(**asked), fit_by_sklearn(**asked)
    assert by_torch.converged
    assert by_sklearn.converged
    assert by_torch.weight.shape == by_sklearn.weight.shape == (num_classes, 6)
    assert by_torch.bias.shape == by_sklearn.bias.shape == (num_classes,)
    torch.testing.assert_close(by_torch.weight, by_sklearn.weight, rtol=1e-3, atol=1e-3 * float(by_torch.weight.std()))
    torch.testing.assert_close(by_torch.bias, by_sklearn.bias, rtol=1e-3, atol=1e-3)
    predicted = by_torch.scores(asked["features"]).argmax(dim=1)
    assert torch.equal(predicted, by_sklearn.scores(asked["features"]).argmax(dim=1))


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_linear_classifier__ends_where_autograd_finds_no_slope(solver: str, num_classes: int) -> None:
    asked = problem(num_classes)
    found = SOLVERS[solver](**asked, l2_weight=0.5, tolerance=1e-6)
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    logits = asked["features"].double() @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, asked["labels"], reduction="sum") + 0.25 * weight.square().sum()
    slopes = torch.autograd.grad(loss, [weight, bias])
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-4  # float32 alone comes to 1e-3


def test_fit_by_torch__does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(3) | {"l2_weight": 1.0, "tolerance": 1e-6}
    expected = fit_by_torch(**asked)
    monkeypatch.setattr("stages.evaluate.metrics.logistic_regression._MAX_BLOCK", 70)  # 23 rows of 60
    torch.testing.assert_close(fit_by_torch(**asked).weight, expected.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_linear_classifier__goes_on_from_the_start_it_is_given(solver: str) -> None:
    asked = problem(4) | {"l2_weight": 0.1}
    cold = SOLVERS[solver](**asked, max_iterations=1)
    assert not cold.converged
    solution = SOLVERS[solver](**asked, tolerance=1e-6)
    warm = SOLVERS[solver](**{**asked, "start": solution}, max_iterations=2)
    assert warm.converged
    torch.testing.assert_close(warm.weight, solution.weight, rtol=1e-3, atol=1e-3)
