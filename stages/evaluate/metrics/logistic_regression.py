"""Fit multinomial logistic regression with an L2 penalty: one linear layer, one objective, two solvers."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from stages.components.metrics.unit_rows import exact_scores

# Scores or widened features held at once: 256 MiB of float64.
_MAX_BLOCK = 2**25


@dataclass(frozen=True)
class LinearClassifier:
    """One linear layer.

    Args:
        weight: Weights of the classes, (classes, dim), float64.
        bias: Biases of the classes, (classes,), float64.
        converged: Whether its fit met the tolerance.
    """

    weight: Tensor
    bias: Tensor
    converged: bool = True

    @classmethod
    def zeros(cls, *, num_classes: int, dim: int, device: torch.device) -> "LinearClassifier":
        """Make a layer of zeros, where a fit starts that has no better start."""
        zeros = torch.zeros(num_classes, dim + 1, dtype=torch.float64, device=device)
        return cls(weight=zeros[:, :-1], bias=zeros[:, -1])

    def scores(self, features: Tensor) -> Tensor:
        """Compute the logits: (rows, dim), float32, to (rows, classes), float32."""
        return torch.addmm(self.bias.float(), features, self.weight.float().T)


@exact_scores()
def fit_by_torch(
    *,
    features: Tensor,
    labels: Tensor,
    l2_weight: float,
    start: LinearClassifier,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> LinearClassifier:
    """Minimise the summed cross-entropy plus l2_weight / 2 times the weights' squared norm; the bias is free.

    Runs L-BFGS on the features' device, with scores in float32 until rounding stops its progress, then in float64 until
    the tolerance is met. Rows are widened block by block, so that no copy of all features is made.

    Args:
        features: Standardised features of the training images.
        labels: Class of each training image.
        l2_weight: Weight of the L2 penalty; the larger, the smaller the layer's weights.
        start: Layer to start from; the nearer the solution, the fewer iterations.
        max_iterations: Number of L-BFGS steps after which the fit ends, converged or not.
        tolerance: Largest element of the gradient at the end, relative to the mean number of images per class.

    Shapes:
        features: (rows, dim), float32; labels: (rows,), int64, on the same device.
    """
    num_rows, (num_classes, dim) = len(labels), start.weight.shape
    # In these units the loss is about as curved in the weights as in the bias, whatever the L2 weight.
    unit = torch.ones(dim + 1, dtype=torch.float64, device=features.device)
    unit[:dim] /= (1 + l2_weight * num_classes / num_rows) ** 0.5
    layer = torch.cat([start.weight, start.bias[:, None]], dim=1).to(features.device) / unit  # (classes, dim + 1)
    limit = tolerance * num_rows / num_classes
    measure = partial(_loss_and_gradient, features=features, labels=labels, l2_weight=l2_weight)
    iterations, converged = 0, False
    for precision, rounding in ((torch.float32, 1e-12), (torch.float64, 1e-15)):
        descent = torch.optim.LBFGS(  # one step runs the whole descent
            [layer],
            max_iter=max_iterations - iterations,
            max_eval=2 * max_iterations,
            tolerance_grad=limit * float(unit.min()),
            tolerance_change=rounding * num_rows,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def evaluate(precision: torch.dtype = precision) -> Tensor:
            loss, gradient = measure(layer * unit, precision=precision)
            layer.grad = gradient * unit
            return loss

        descent.step(evaluate)  # type: ignore[no-untyped-call]
        iterations += descent.state[layer]["n_iter"]
        converged = bool(measure(layer * unit, precision=precision)[1].abs().max() <= limit)
        if converged or iterations >= max_iterations:
            break
    layer *= unit
    return LinearClassifier(weight=layer[:, :dim], bias=layer[:, dim], converged=converged)


def _loss_and_gradient(
    layer: Tensor, *, features: Tensor, labels: Tensor, l2_weight: float, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute objective and gradient for a layer of (classes, dim + 1), both float64, from scores in `precision`."""
    num_classes, dim = layer.shape[0], layer.shape[1] - 1
    weight, bias = layer[:, :dim].to(precision), layer[:, dim].to(precision)
    loss = layer[:, :dim].square().sum() * (l2_weight / 2)
    gradient = layer * l2_weight
    gradient[:, dim] = 0
    block = max(1, _MAX_BLOCK // max(num_classes, dim))
    for begin in range(0, len(labels), block):
        rows, classes = features[begin : begin + block].to(precision), labels[begin : begin + block, None]
        log_chances = log_softmax(torch.addmm(bias, rows, weight.T), dim=1)
        loss -= log_chances.gather(1, classes).sum(dtype=torch.float64)
        errors = log_chances.exp_().scatter_add_(1, classes, -torch.ones_like(classes, dtype=precision))
        gradient[:, :dim] += errors.T @ rows
        gradient[:, dim] += errors.sum(dim=0, dtype=torch.float64)
    return loss, gradient


def fit_by_sklearn(
    *,
    features: Tensor,
    labels: Tensor,
    l2_weight: float,
    start: LinearClassifier,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> LinearClassifier:
    """Minimise the objective of `fit_by_torch` by scikit-learn's LogisticRegression; every class must be among labels.

    Arguments are those of `fit_by_torch`. scikit-learn's C weighs the summed cross-entropy against half the squared
    norm, so C is 1 / l2_weight. For two classes it fits one row w, which stands for -w/2 and w/2 with half the squared
    norm, so C is 2 / l2_weight.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    num_classes = len(start.bias)
    is_binary = num_classes == 2
    model = LogisticRegression(
        C=(2 if is_binary else 1) / l2_weight, tol=tolerance / num_classes, max_iter=max_iterations, warm_start=True
    )
    weight, bias = start.weight.cpu(), start.bias.cpu()
    model.coef_ = (weight.diff(dim=0) if is_binary else weight).numpy()
    model.intercept_ = (bias.diff() if is_binary else bias).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        model.fit(features.cpu().double().numpy(), labels.cpu().numpy())
    weight, bias = torch.from_numpy(model.coef_).double(), torch.from_numpy(model.intercept_).double()
    if is_binary:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return LinearClassifier(
        weight=weight.to(features.device),
        bias=bias.to(features.device),
        converged=int(model.n_iter_.max()) < max_iterations,
    )


SOLVERS: dict[str, Callable[..., LinearClassifier]] = {"torch": fit_by_torch, "sklearn": fit_by_sklearn}
