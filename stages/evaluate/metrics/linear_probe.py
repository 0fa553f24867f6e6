"""Fit linear probes: how well does one linear layer on frozen features tell the classes apart?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.components.metrics.ranking import TIE_TOLERANCE, check_labels
from stages.components.metrics.unit_rows import STUDENT_REMEDY, exact_scores
from stages.evaluate.metrics.classification import Classified, classify
from stages.evaluate.metrics.logistic_regression import SOLVERS, LinearClassifier

# L2 weights as powers of ten, strongest first; the best is then refined in steps down to an eighth of a decade.
_COARSE_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_REFINING_STEPS = (1.0, 0.5, 0.25, 0.125)
_VALIDATION_SHARE = 0.2
# Numbers of widened features held at once: 256 MiB of float64.
_MAX_BLOCK = 2**25


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe's answers, and how it was fitted.

    Args:
        answers: Its answers for the test images.
        l2_weight: The L2 weight that was chosen.
        validation_curve: Each L2 weight that was tried and its top-1 percentage on the validation images, weakest
            first.
        converged: Whether the last fit, on all training images, met its tolerance within the allowed iterations.
    """

    answers: Classified
    l2_weight: float
    validation_curve: tuple[tuple[float, float], ...]
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

    The protocol of Radford et al., CLIP, 2021, arXiv:2103.00020, A.3: choose the L2 weight that is best on a held-out
    fifth of the training images, from 1e-6 to 1e6, first in steps of two decades and then by halving the step around
    the best, down to an eighth of a decade; of equals the stronger. Then fit all training images with it. Unlike CLIP,
    features are standardised by their mean and deviation over the training images; one that is constant there counts
    as 0.

    Args:
        train_features: One row per training image. The layer is fitted on their device, which must support float64.
        train_labels: Class of each training image; every class must occur.
        test_features: One row per test image. They are scored once, after choosing and fitting.
        test_labels: Class of each test image.
        num_classes: Number of classes.
        solver: "torch" for L-BFGS on the features' device; "sklearn" for scikit-learn's on the CPU, which makes a
            float64 copy of the features. Both minimise the same objective.
        max_iterations: Number of L-BFGS steps after which a fit ends, converged or not.
        seed: Seed of the training images that are held out to choose the L2 weight.

    Raises:
        ProtoRKDError: the solver is unknown, there are fewer than two classes, a class has no training image, no class
            has two, or a feature is NaN or infinite.
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
    return LinearProbe(
        answers=classify(scores=scores, labels=test_labels, tolerance=TIE_TOLERANCE),
        l2_weight=l2_weight,
        validation_curve=tuple((10.0**exponent, curve[exponent]) for exponent in sorted(curve)),
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


def _choose(
    *,
    fit: Callable[..., LinearClassifier],
    features: Tensor,
    labels: Tensor,
    num_fit_rows: int,
    start: LinearClassifier,
) -> tuple[dict[float, float], LinearClassifier]:
    """Fit the first ``num_fit_rows`` rows with each L2 weight, each from a nearby solution; validate on the others.

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
        answers = classify(scores=scores, labels=held_labels, tolerance=TIE_TOLERANCE)
        curve[exponent] = 100 * float(answers.hits["top1"].mean())
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
    """Compute mean and inverse deviation of each feature, float64; 0 for one that varies only by float32 rounding."""
    dim, block = features.shape[1], max(1, _MAX_BLOCK // len(features))
    columns = (features[:, begin : begin + block].double() for begin in range(0, dim, block))
    variances, means = zip(*(torch.var_mean(column, dim=0, correction=0) for column in columns), strict=True)
    mean, deviation = torch.cat(means), torch.cat(variances).sqrt()
    return mean, deviation.reciprocal().where(deviation > 1e-6 * mean.abs(), 0)


def _standardise(features: Tensor, order: Tensor, *, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardise the rows in ``order`` on the mean's device, in blocks of float64: (rows, dim), float32."""
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
