"""Linear probes: how well does one linear layer tell the classes apart from frozen features?"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from data_schemas.errors import ProtoRKDError
from stages.evaluate.zero_shot import accuracy, per_class_top1
from stages.ranking import STUDENT_REMEDY, TIE_TOLERANCE, check_labels, exact_scores, expected_label_hits

# L2 weights as powers of ten, strongest first, and how the best one is then refined: down to 8 steps a decade.
_COARSE_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_REFINING_STEPS = (1.0, 0.5, 0.25, 0.125)
_VALIDATION_SHARE = 0.2
# Numbers held at once, of scores or of widened features: 256 MiB of float64.
_MAX_BLOCK = 2**25


@dataclass(frozen=True)
class LinearClassifier:
    """One linear layer.

    Args:
        weight: (classes, dim), float64.
        bias: (classes,), float64.
        converged: whether its fit met the tolerance.
    """

    weight: Tensor
    bias: Tensor
    converged: bool = True

    @classmethod
    def zeros(cls, *, num_classes: int, dim: int, device: torch.device) -> "LinearClassifier":
        """Where a fit starts that has nothing better."""
        zeros = torch.zeros(num_classes, dim + 1, dtype=torch.float64, device=device)
        return cls(weight=zeros[:, :-1], bias=zeros[:, -1])

    def scores(self, features: Tensor) -> Tensor:
        """Logits: (rows, dim), float32, to (rows, classes), float32."""
        return torch.addmm(self.bias.float(), features, self.weight.float().T)


@dataclass(frozen=True)
class LinearProbe:
    """What a linear probe found.

    Args:
        metrics: on the test images: ``top1``, ``top5`` (left out for five classes or fewer) and ``mean_per_class``, the
            mean top-1 accuracy of the classes that have test images; percentages.
        l2_weight: the regulariser that was chosen.
        validation_curve: each regulariser that was tried and its top-1 percentage on the validation images, weakest
            first.
        correct: (test,), float64, on the CPU: 1 where a test image's class scores best, 0 where it does not, between
            where scores are tied.
        converged: whether the last fit, on all training images, met its tolerance within the allowed iterations.
    """

    metrics: dict[str, float]
    l2_weight: float
    validation_curve: tuple[tuple[float, float], ...]
    correct: Tensor
    converged: bool


@exact_scores()
def linear_probe(
    *,
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    num_classes: int,
    solver: str = "torch",
    max_iterations: int = 1000,
    seed: int = 0,
) -> LinearProbe:
    """Fit a multinomial logistic regression on the training images' features and measure it on the test images.

    The protocol of Radford et al., CLIP, 2021, arXiv:2103.00020, A.3: the L2 weight that is best for a held-out fifth
    of the training images, from 1e-6 to 1e6, first in steps of two decades and then by halving the step around the
    best, down to an eighth of a decade; the stronger of equals. Then all training images are fitted with it. Unlike
    there, features are standardised, by their mean and deviation over the training images; one that is constant there
    counts as 0.

    Args:
        train_features: one row a training image. They are fitted on their device, which must know float64.
        train_labels: class of each training image; every class must be there.
        test_features: one row a test image. They are scored once, when all is chosen and fitted.
        test_labels: class of each test image.
        num_classes: how many classes there are.
        solver: "torch" for L-BFGS on the features' device; "sklearn" for scikit-learn's, on the CPU, which makes a
            float64 copy of the features. Both minimise the same.
        max_iterations: after how many L-BFGS steps a fit ends though it has not converged.
        seed: which training images are held out to choose the L2 weight.

    Raises:
        ProtoRKDError: the solver is unknown, there are fewer than two classes, one has no training image or all have a
            single one, or a feature is NaN or infinite.
        ValueError: labels or features do not fit each other.

    Shapes:
        train_features: (train, dim), any float, any scale; train_labels: (train,), int64.
        test_features: (test, dim), any float, any scale; test_labels: (test,), int64.
    """
    if solver not in SOLVERS:
        raise ProtoRKDError(f"The linear probe's solver must be one of {', '.join(SOLVERS)}; got {solver}. Choose one.")
    _check(train_features, train_labels, num_classes=num_classes, split="Training")
    _check(test_features, test_labels, num_classes=num_classes, split="Test")
    _check_every_class(train_labels, num_classes=num_classes)
    if test_features.shape[1] != train_features.shape[1]:
        raise ValueError(f"Features must have one width; got {train_features.shape[1]} and {test_features.shape[1]}.")
    fit = partial(SOLVERS[solver], max_iterations=max_iterations)
    fit_rows, validation_rows = split_train(train_labels, seed=seed)
    order = torch.cat([fit_rows, validation_rows])
    mean, scale = _mean_and_scale(train_features)
    features = _standardise(train_features, order, mean=mean, scale=scale)
    labels = train_labels.to(features.device)[order.to(features.device)]
    start = LinearClassifier.zeros(num_classes=num_classes, dim=features.shape[1], device=features.device)
    curve, best = _choose(fit=fit, features=features, labels=labels, num_fit_rows=len(fit_rows), start=start)
    l2_weight = 10.0 ** _peak(curve)
    classifier = fit(features=features, labels=labels, l2_weight=l2_weight, start=best)
    scores = classifier.scores(_standardise(test_features, torch.arange(len(test_features)), mean=mean, scale=scale))
    _check_finite(scores, name="Scores of test images")
    per_class = per_class_top1(scores=scores, labels=test_labels)
    test_labels = test_labels.to(scores.device)
    return LinearProbe(
        metrics={
            **accuracy(scores=scores, labels=test_labels, tolerance=TIE_TOLERANCE),
            "mean_per_class": float(per_class[~per_class.isnan()].mean()),
        },
        l2_weight=l2_weight,
        validation_curve=tuple((10.0**exponent, curve[exponent]) for exponent in sorted(curve)),
        correct=expected_label_hits(scores=scores, labels=test_labels, k=1, tolerance=TIE_TOLERANCE).cpu(),
        converged=classifier.converged,
    )


def split_train(labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a fifth of each class, at least one image, but never a class's only one.

    Raises:
        ProtoRKDError: no class has two images.

    Shapes:
        labels: (rows,), int64, from 0.
        returns: rows to fit and rows to validate on, both ascending int64 on the CPU.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]  # within its class
    held_out = (counts * _VALIDATION_SHARE).round().long().clamp_min(1).where(counts > 1, 0)
    is_validation = torch.zeros(len(labels), dtype=torch.bool)
    is_validation[by_class] = place < held_out[labels[by_class]]
    if not is_validation.any():
        raise ProtoRKDError(
            "Training images of a linear probe must be at least two of one class, to choose the regulariser; got "
            f"{len(labels)} images of {len(labels)} classes. Give more training images."
        )
    return (~is_validation).nonzero().flatten(), is_validation.nonzero().flatten()


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

    By L-BFGS on the features' device, with scores in float32 until rounding holds it up, from there on in float64 until
    the tolerance is met. Rows are widened block by block, so that no copy of all features is made.

    Args:
        features: of the training images, standardised.
        labels: their classes.
        l2_weight: the larger, the smaller the weights.
        start: from where to go; the nearer the solution, the fewer iterations.
        max_iterations: where to stop though it has not converged.
        tolerance: largest element of the gradient at the end, relative to the mean number of images of a class.

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
        descent = torch.optim.LBFGS(  # one step of it is a whole descent
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
    """The objective and its gradient for a layer of (classes, dim + 1), both float64, from scores in `precision`."""
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
    """Minimise what `fit_by_torch` minimises, by scikit-learn's LogisticRegression; every class must be among labels.

    Arguments are those of `fit_by_torch`. Its C weighs the summed cross-entropy against half the squared norm, so C is
    1 / l2_weight. For two classes it fits one row w, which stands for -w/2 and w/2: half the squared norm, so C is
    twice that.
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
        warnings.simplefilter("ignore", ConvergenceWarning)  # the classifier says it
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


def _choose(
    *,
    fit: Callable[..., LinearClassifier],
    features: Tensor,
    labels: Tensor,
    num_fit_rows: int,
    start: LinearClassifier,
) -> tuple[dict[float, float], LinearClassifier]:
    """Fit the first rows with each L2 weight, from a solution near by, and validate on the others.

    Returns:
        Top-1 percentage by the L2 weight's power of ten, and the classifier of the best.
    """
    (fit_features, held_features), (fit_labels, held_labels) = (
        rows.tensor_split([num_fit_rows]) for rows in (features, labels)
    )
    curve: dict[float, float] = {}
    best = classifier = start

    def measure(exponent: float, start: LinearClassifier) -> LinearClassifier:
        classifier = fit(features=fit_features, labels=fit_labels, l2_weight=10.0**exponent, start=start)
        scores = classifier.scores(held_features)
        curve[exponent] = accuracy(scores=scores, labels=held_labels, tolerance=TIE_TOLERANCE)["top1"]
        return classifier

    for exponent in _COARSE_EXPONENTS:
        classifier = measure(exponent, classifier)
        best = classifier if _peak(curve) == exponent else best
    for step in _REFINING_STEPS:
        centre, start = _peak(curve), best
        for exponent in (centre + step, centre - step):
            if min(_COARSE_EXPONENTS) <= exponent <= max(_COARSE_EXPONENTS):
                classifier = measure(exponent, start)
                best = classifier if _peak(curve) == exponent else best
    return curve, best


def _peak(curve: dict[float, float]) -> float:
    return max(curve, key=lambda exponent: (curve[exponent], exponent))


def _mean_and_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of each feature, float64; 0 for one that varies no more than float32 rounds."""
    dim, block = features.shape[1], max(1, _MAX_BLOCK // len(features))
    columns = (features[:, begin : begin + block].double() for begin in range(0, dim, block))
    variances, means = zip(*(torch.var_mean(column, dim=0, correction=0) for column in columns), strict=True)
    mean, deviation = torch.cat(means), torch.cat(variances).sqrt()
    return mean, deviation.reciprocal().where(deviation > 1e-6 * mean.abs(), 0)


def _standardise(features: Tensor, order: Tensor, *, mean: Tensor, scale: Tensor) -> Tensor:
    """Rows in the given order, on the mean's device, widened block by block: (rows, dim), float32."""
    standardised = torch.empty(len(order), len(mean), device=mean.device)
    block = max(1, _MAX_BLOCK // len(mean))
    for begin in range(0, len(order), block):
        rows = features[order[begin : begin + block].to(features.device)].to(mean.device)
        standardised[begin : begin + block] = (rows.double() - mean) * scale
    return standardised


def _check(features: Tensor, labels: Tensor, *, num_classes: int, split: str) -> None:
    if features.ndim != 2:
        raise ValueError(f"{split} image features must have shape (rows, dim); got {tuple(features.shape)}.")
    check_labels(labels, num_rows=len(features), num_classes=num_classes)
    _check_finite(features, name=f"{split} image features")


def _check_finite(rows: Tensor, *, name: str) -> None:
    broken = (~rows.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise ProtoRKDError(
            f"{name} must be finite; got NaN or infinity in {len(broken)} of {len(rows)} rows, "
            f"the first of them row {int(broken[0])}. {STUDENT_REMEDY}"
        )


def _check_every_class(train_labels: Tensor, *, num_classes: int) -> None:
    if num_classes < 2:
        raise ProtoRKDError(f"A linear probe must have two classes or more; got {num_classes}. Add classes.")
    missing = (train_labels.cpu().bincount(minlength=num_classes) == 0).nonzero().flatten()
    if len(missing):
        raise ProtoRKDError(
            f"Training images of a linear probe must be there for every class; got none for {len(missing)} of "
            f"{num_classes} classes, the first of them class {int(missing[0])}. Add images or remove the class."
        )
