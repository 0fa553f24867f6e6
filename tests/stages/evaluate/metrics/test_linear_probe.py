from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.evaluate.metrics.linear_probe import LinearProbe, linear_probe, split_train


def accuracy(probe: LinearProbe) -> dict[str, float]:
    return {name: 100 * float(hits.mean()) for name, hits in probe.answers.hits.items()}


def some_splits(num_classes: int = 3, *, num_train: int = 60, num_test: int = 40, dim: int = 6) -> dict[str, Any]:
    """Overlapping classes, of unlike sizes, from features of unlike scales."""
    generator = torch.Generator().manual_seed(num_classes)
    centres = torch.randn(num_classes, dim, generator=generator)
    splits: dict[str, Any] = {"num_classes": num_classes}
    for split, size in (("train", num_train), ("test", num_test)):
        labels = (torch.rand(size, generator=generator).square() * num_classes).long()
        labels[: 2 * num_classes] = torch.arange(num_classes).repeat(2)
        noise = 1.5 * torch.randn(size, dim, generator=generator)
        splits[f"{split}_features"] = (centres[labels] + noise) * torch.logspace(-3, 3, dim) + 5
        splits[f"{split}_labels"] = labels
    return splits


def test_linear_probe__agrees_with_a_probe_by_hand_in_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import top_k_accuracy_score
    from sklearn.preprocessing import StandardScaler

    splits = some_splits(8, num_train=120)
    probe = linear_probe(**splits)
    train, train_labels = splits["train_features"].double().numpy(), splits["train_labels"].numpy()
    scaler = StandardScaler().fit(train)
    fitted, held_out = (rows.numpy() for rows in split_train(splits["train_labels"], seed=0))
    rows = scaler.transform(train)
    for l2_weight, top1 in probe.validation_curve:
        if 1e-2 <= l2_weight <= 1e3:  # where a solution is reached soon
            model = LogisticRegression(C=1 / l2_weight, tol=1e-6, max_iter=1000).fit(rows[fitted], train_labels[fitted])
            assert top1 == pytest.approx(100 * model.score(rows[held_out], train_labels[held_out])), l2_weight
    model = LogisticRegression(C=1 / probe.l2_weight, tol=1e-6, max_iter=1000).fit(rows, train_labels)
    scores, labels = model.decision_function(scaler.transform(splits["test_features"])), splits["test_labels"].numpy()
    assert accuracy(probe) == pytest.approx(
        {
            "top1": 100 * top_k_accuracy_score(labels, scores, k=1),
            "top5": 100 * top_k_accuracy_score(labels, scores, k=5),
        }
    )
    np.testing.assert_array_equal(probe.answers.predicted.numpy(), scores.argmax(axis=1))
    np.testing.assert_array_equal(probe.answers.hits["top1"].numpy(), scores.argmax(axis=1) == labels)
    assert probe.converged


def test_linear_probe__finds_the_same_by_both_solvers() -> None:
    splits = some_splits(3)
    by_torch, by_sklearn = linear_probe(**splits), linear_probe(**splits, solver="sklearn")
    assert by_torch.l2_weight == by_sklearn.l2_weight
    assert torch.equal(by_torch.answers.predicted, by_sklearn.answers.predicted)


@pytest.mark.parametrize("change", ["labels", "features"])
def test_linear_probe__never_chooses_by_the_test_images(change: str) -> None:
    splits = some_splits(4)
    asked = dict(splits)
    if change == "labels":
        asked["test_labels"] = splits["test_labels"].roll(7)
    else:
        asked["test_features"] = splits["test_features"].flip(0, 1)
    expected, found = linear_probe(**splits), linear_probe(**asked)
    assert found.validation_curve == expected.validation_curve
    assert found.l2_weight == expected.l2_weight
    assert not torch.equal(found.answers.hits["top1"], expected.answers.hits["top1"])


def test_linear_probe__takes_the_stronger_of_equal_regularisers() -> None:
    found = linear_probe(**some_splits(3))
    best = max(top1 for _, top1 in found.validation_curve)
    assert found.l2_weight == max(l2_weight for l2_weight, top1 in found.validation_curve if top1 == best)


def test_linear_probe__refines_around_the_best_of_a_coarse_grid() -> None:
    probe = linear_probe(**some_splits(3))
    exponents = [float(np.log10(l2_weight)) for l2_weight, _ in probe.validation_curve]
    assert exponents == sorted(exponents)
    assert {-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0} <= {round(exponent, 6) for exponent in exponents}
    chosen = float(np.log10(probe.l2_weight))
    assert min(abs(exponent - chosen) for exponent in exponents if exponent != chosen) == pytest.approx(0.125)


def test_linear_probe__ignores_shift_and_scale_of_a_feature() -> None:
    splits = some_splits(3)
    asked = dict(splits)
    for split in ("train_features", "test_features"):
        scale = torch.logspace(-30, 40, 6, dtype=torch.float64)
        asked[split] = (splits[split].double() + 3) * scale
    expected, found = linear_probe(**splits), linear_probe(**asked)
    assert found.l2_weight == expected.l2_weight
    assert torch.equal(found.answers.hits["top1"], expected.answers.hits["top1"])


def test_linear_probe__ignores_a_feature_that_is_constant_over_the_training_images() -> None:
    splits = some_splits(3)
    asked = dict(splits)
    for split, value in (("train_features", 0.1), ("test_features", 1e6)):
        asked[split] = torch.cat([splits[split], torch.full((len(splits[split]), 1), value)], dim=1)
    expected, found = linear_probe(**splits), linear_probe(**asked)
    assert torch.equal(found.answers.predicted, expected.answers.predicted)


def test_linear_probe__scores_a_collapsed_student_as_chance() -> None:
    labels = torch.arange(10).repeat(4)
    features = torch.linspace(-1, 1, 8).repeat(40, 1)
    probe = linear_probe(
        train_features=features, train_labels=labels, test_features=features, test_labels=labels, num_classes=10
    )
    assert probe.answers.hits["top1"].tolist() == pytest.approx([0.1] * 40)
    assert probe.answers.hits["top5"].tolist() == pytest.approx([0.5] * 40)


def test_linear_probe__says_that_its_last_fit_did_not_converge() -> None:
    assert not linear_probe(**some_splits(3), max_iterations=1).converged


def test_linear_probe__reads_half_precision() -> None:
    splits = some_splits(3)
    asked = {key: value.half() if key.endswith("features") else value for key, value in splits.items()}
    rounded = {key: value.half().float() if key.endswith("features") else value for key, value in splits.items()}
    assert torch.equal(linear_probe(**asked).answers.predicted, linear_probe(**rounded).answers.predicted)


def test_linear_probe__leaves_its_arguments_alone() -> None:
    splits = some_splits(3)
    copies = {key: value.clone() for key, value in splits.items() if isinstance(value, Tensor)}
    linear_probe(**splits)
    assert all(torch.equal(copy, splits[key]) for key, copy in copies.items())


def test_split_train__holds_out_a_fifth_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 3 + [3] * 2 + [4])[torch.randperm(66)]
    fitted, held_out = split_train(labels, seed=0)
    assert torch.equal(torch.cat([fitted, held_out]).sort().values, torch.arange(66))
    assert labels[held_out].bincount(minlength=5).tolist() == [10, 2, 1, 1, 0]


def test_split_train__depends_on_the_seed_alone() -> None:
    labels = torch.arange(5).repeat(20)
    first, second, other = (split_train(labels, seed=seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_split_train__refuses_one_image_a_class() -> None:
    with pytest.raises(ProtoRKDError, match="at least two of one class"):
        split_train(torch.arange(4), seed=0)


def test_linear_probe__refuses_a_class_without_training_images() -> None:
    splits = some_splits(4)
    splits["train_labels"] = splits["train_labels"].where(splits["train_labels"] != 2, 1)
    with pytest.raises(ProtoRKDError, match="got none for 1 of 4 classes, the first of them class 2"):
        linear_probe(**splits)


def test_linear_probe__refuses_a_single_class() -> None:
    splits = {key: value * 0 if key.endswith("labels") else value for key, value in some_splits(2).items()}
    with pytest.raises(ProtoRKDError, match=r"two classes or more; got 1\."):
        linear_probe(**{**splits, "num_classes": 1})


@pytest.mark.parametrize("split", ["train", "test"])
def test_linear_probe__refuses_labels_out_of_range(split: str) -> None:
    splits = some_splits(3)
    splits[f"{split}_labels"][0] = 3
    with pytest.raises(ValueError, match="from 0 to 2; got 0 to 3"):
        linear_probe(**splits)


@pytest.mark.parametrize(("split", "name"), [("train", "Training"), ("test", "Test")])
def test_linear_probe__refuses_features_that_are_not_finite(split: str, name: str) -> None:
    splits = some_splits(3)
    splits[f"{split}_features"][4, 1] = float("nan")
    with pytest.raises(ProtoRKDError, match=f"{name} image features must be finite; .* 1 of .* row 4"):
        linear_probe(**splits)


def test_linear_probe__refuses_features_of_another_width() -> None:
    splits = some_splits(3)
    with pytest.raises(ValueError, match="one width; got 6 and 5"):
        linear_probe(**{**splits, "test_features": splits["test_features"][:, 1:]})


def test_linear_probe__refuses_an_unknown_solver() -> None:
    with pytest.raises(ProtoRKDError, match="one of torch, sklearn; got newton"):
        linear_probe(**some_splits(3), solver="newton")
