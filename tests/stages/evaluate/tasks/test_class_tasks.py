import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from task_sets import by_name, class_set, embeddings, labels_of

from data_schemas.errors import ProtoRKDError
from stages.evaluate.statistics.bootstrap import bootstrap_class_mean, bootstrap_mean
from stages.evaluate.tasks.class_tasks import knn, linear_probe, split_of, zero_shot
from stages.evaluate.tasks.task_result import TaskResult

DRAWS: dict[str, Any] = {"seed": 1, "num_resamples": 100}
TEMPLATES = ("{}", "a {}")
CPU = torch.device("cpu")


def class_prompts(num_classes: int, *, dim: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    centres = torch.randn(num_classes, dim, generator=generator)
    return {
        template.format(f"kind {number}"): centres[number] + 0.1 * torch.randn(dim, generator=generator)
        for number in range(num_classes)
        for template in TEMPLATES
    }


def by_prompts(num_classes: int = 7, **changes: Any) -> TaskResult:
    found, rows = class_set(num_classes)
    asked = {"templates": TEMPLATES, **DRAWS}
    prompts = by_name(class_prompts(num_classes))
    return zero_shot(replace(found, **changes), embeddings(rows["test"]), prompts, **asked)


def check_agreement(measured: TaskResult, *, labels: np.ndarray, scores: np.ndarray) -> None:
    """Compare metrics, intervals and outcomes with what scikit-learn makes of a classifier's scores."""
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    predicted = scores.argmax(axis=1)
    known = np.arange(scores.shape[1])
    assert measured.entry["metrics"] == pytest.approx(
        {
            "top1": 100 * top_k_accuracy_score(labels, scores, k=1, labels=known),
            "top5": 100 * top_k_accuracy_score(labels, scores, k=5, labels=known),
            "mean_per_class": 100 * balanced_accuracy_score(labels, predicted),
        }
    )
    (outcomes,) = measured.outcomes
    assert outcomes.labels == [f"kind {label}" for label in labels]
    assert outcomes.predicted == [f"kind {label}" for label in predicted]
    np.testing.assert_array_equal(outcomes.measures["top1"], predicted == labels)
    hits = 100.0 * (predicted == labels)
    intervals = measured.entry["intervals"]
    assert intervals["top1"] == bootstrap_mean(hits, **DRAWS)._asdict()
    assert intervals["mean_per_class"] == bootstrap_class_mean(hits, labels=labels, **DRAWS)._asdict()
    json.dumps(measured.entry, allow_nan=False)


def test_zero_shot__agrees_with_scikit_learn() -> None:
    kinds, rows = class_set()
    measured = by_prompts()
    prompts = class_prompts(7)
    unit = torch.nn.functional.normalize
    classes = torch.stack(
        [unit(torch.stack([prompts[t.format(f"kind {n}")] for t in TEMPLATES]), dim=1).mean(dim=0) for n in range(7)]
    )
    scores = torch.nn.functional.cosine_similarity(rows["test"][:, None], classes[None], dim=2)
    check_agreement(measured, labels=labels_of(kinds, "test").numpy(), scores=scores.numpy())
    assert measured.outcomes[0].images == [f"test/{number:03}.jpg" for number in range(50)]
    assert {key: measured.entry[key] for key in ("name", "task", "num_images", "num_classes", "templates")} == {
        "name": "kinds",
        "task": "zero_shot",
        "num_images": 50,
        "num_classes": 7,
        "templates": ["{}", "a {}"],
    }
    assert measured.entry["chance"] == pytest.approx({"top1": 100 / 7, "top5": 500 / 7, "mean_per_class": 100 / 7})
    assert "kinds/zero_shot/top1" in measured.flat()


@pytest.mark.parametrize(("mean_per_class", "headline"), [(True, "mean_per_class"), (False, "top1")])
def test_zero_shot__says_which_measure_is_the_sets_convention(mean_per_class: bool, headline: str) -> None:
    assert by_prompts(mean_per_class=mean_per_class).entry["headline"] == headline


def test_zero_shot__knows_a_set_of_one_class() -> None:
    found, rows = class_set(1)
    measured = zero_shot(found, embeddings(rows["test"]), by_name(class_prompts(1)), templates=TEMPLATES, **DRAWS)
    assert measured.entry["metrics"] == measured.entry["chance"] == {"top1": 100.0, "mean_per_class": 100.0}


def test_zero_shot__leaves_out_images_that_cannot_be_read() -> None:
    found, rows = class_set()
    prompts = by_name(class_prompts(7))
    whole = by_prompts().outcomes[0]
    measured = zero_shot(found, embeddings(rows["test"], unread=(0, 30)), prompts, templates=TEMPLATES, **DRAWS)
    kept = [row for row in range(50) if row not in (0, 30)]
    (outcomes,) = measured.outcomes
    assert outcomes.images == [whole.images[row] for row in kept]
    assert outcomes.labels == [whole.labels[row] for row in kept]
    np.testing.assert_array_equal(outcomes.measures["top1"], whole.measures["top1"][kept])
    assert (measured.entry["num_images"], measured.entry["rejected"]) == (48, 2)
    assert measured.entry["first_rejected"] == "0.jpg: truncated"


def test_zero_shot__scores_a_collapsed_student_as_chance() -> None:
    found, rows = class_set()
    prompts = {prompt: torch.ones(6) for prompt in class_prompts(7)}
    measured = zero_shot(found, embeddings(rows["test"]), by_name(prompts), templates=TEMPLATES, **DRAWS)
    assert measured.entry["metrics"] == pytest.approx(measured.entry["chance"])


def test_zero_shot__tells_classes_of_one_name_apart() -> None:
    measured = by_prompts(class_names=("kind 3", *(f"kind {number}" for number in range(1, 7))))
    outcomes = measured.outcomes[0]
    assert {"kind 3 (0)", "kind 3 (3)", "kind 1"} <= set(outcomes.labels)
    assert len(set(outcomes.labels)) == 7


@pytest.mark.parametrize("space", ["embedding", "backbone"])
def test_knn__agrees_with_scikit_learn(space: Any) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    kinds, rows = class_set()
    other = {split: -table.flip(0).exp() for split, table in rows.items()}
    train, test = (embeddings(rows[split], features=other[split]) for split in ("train", "test"))
    classifier = KNeighborsClassifier(
        n_neighbors=60, algorithm="brute", metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.3)
    )
    tables = rows if space == "embedding" else other
    classifier.fit(tables["train"].double().numpy(), labels_of(kinds, "train").numpy())
    scores = classifier.predict_proba(tables["test"].double().numpy())
    assert (scores > 0).all()  # or classes without a vote would be tied
    measured = knn(kinds, train, test, k=60, temperature=0.3, space=space, device=CPU, **DRAWS)
    check_agreement(measured, labels=labels_of(kinds, "test").numpy(), scores=scores)
    assert measured.entry["task"] == ("knn" if space == "embedding" else "knn_backbone")
    assert (measured.entry["num_train_images"], measured.entry["k"], measured.entry["temperature"]) == (70, 60, 0.3)


def test_knn__shares_the_hit_among_classes_without_votes() -> None:
    found, rows = class_set()
    train = replace(embeddings(rows["train"]), embeddings=torch.ones(70, 6))
    test = replace(embeddings(rows["test"]), embeddings=torch.ones(50, 6))
    measured = knn(found, train, test, k=1, temperature=0.07, space="embedding", device=CPU, **DRAWS)
    (outcomes,) = measured.outcomes
    is_hit = outcomes.measures["top1"] == 1
    np.testing.assert_allclose(outcomes.measures["top5"][~is_hit], 4 / 6)  # four places for six classes without votes


@pytest.mark.parametrize("unread", [(), (0, 5, 69)])
def test_knn__leaves_out_training_images_that_cannot_be_read(unread: tuple[int, ...]) -> None:
    kinds, rows = class_set()
    rows["test"] = rows["train"][:50]
    kinds = replace(kinds, test=kinds.train)
    train, test = embeddings(rows["train"], unread=unread), embeddings(rows["train"], unread=unread)
    measured = knn(kinds, train, test, k=1, temperature=0.07, space="embedding", device=CPU, **DRAWS)
    assert measured.entry["metrics"]["top1"] == 100  # every image finds itself, and its own label
    assert (measured.entry["num_train_images"], measured.entry["num_train_rejected"]) == (70 - len(unread), len(unread))


def test_knn__refuses_more_neighbours_than_readable_images() -> None:
    found, rows = class_set()
    train, test = embeddings(rows["train"], unread=(1,)), embeddings(rows["test"])
    with pytest.raises(ProtoRKDError, match=r"--knn-k must be from 1 to .* 69; got 70\."):
        knn(found, train, test, k=70, temperature=0.07, space="embedding", device=CPU, **DRAWS)


@pytest.mark.parametrize("space", ["embedding", "backbone"])
def test_linear_probe__agrees_with_scikit_learn(space: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    kinds, rows = class_set()
    other = {split: 9 - table.flip(0) for split, table in rows.items()}
    train, test = (embeddings(rows[split], features=other[split]) for split in ("train", "test"))
    measured = linear_probe(kinds, train, test, solver="torch", max_iterations=1000, space=space, device=CPU, **DRAWS)
    tables = rows if space == "embedding" else other
    scaler = StandardScaler().fit(tables["train"].double().numpy())
    model = LogisticRegression(C=1 / measured.entry["l2_weight"], tol=1e-6, max_iter=1000)
    model.fit(scaler.transform(tables["train"].double().numpy()), labels_of(kinds, "train").numpy())
    scores = model.decision_function(scaler.transform(tables["test"].double().numpy()))
    check_agreement(measured, labels=labels_of(kinds, "test").numpy(), scores=scores)
    assert measured.entry["task"] == ("linear_probe" if space == "embedding" else "linear_probe_backbone")
    assert (measured.entry["solver"], measured.entry["converged"]) == ("torch", True)


def test_linear_probe__takes_the_given_solver_and_iterations() -> None:
    found, rows = class_set(3)
    train, test = embeddings(rows["train"]), embeddings(rows["test"])
    measured = linear_probe(
        found, train, test, solver="sklearn", max_iterations=1, space="embedding", device=CPU, **DRAWS
    )
    assert (measured.entry["solver"], measured.entry["max_iterations"]) == ("sklearn", 1)
    assert measured.entry["converged"] is False


def test_linear_probe__refuses_a_class_without_a_readable_training_image() -> None:
    kinds, rows = class_set()
    unread = tuple((labels_of(kinds, "train") == 4).nonzero().flatten().tolist())
    train, test = embeddings(rows["train"], unread=unread), embeddings(rows["test"])
    with pytest.raises(ProtoRKDError, match="got none for 1 of 7 classes, the first of them class 4"):
        linear_probe(kinds, train, test, solver="torch", max_iterations=100, space="embedding", device=CPU, **DRAWS)


def test_class_tasks__are_settled_by_the_seed() -> None:
    found, rows = class_set()
    train, test = embeddings(rows["train"]), embeddings(rows["test"])
    asked: dict[str, Any] = {"k": 5, "temperature": 0.07, "space": "embedding", "device": CPU, "num_resamples": 100}
    first, again, other = (knn(found, train, test, seed=seed, **asked).entry for seed in (0, 0, 1))
    assert first == again
    assert first["intervals"] != other["intervals"]
    assert first["metrics"] == other["metrics"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_of__refuses_a_split_that_a_set_has_not(split: str) -> None:
    found, _ = class_set()
    assert split_of(found, split).folder.root.name == split
    with pytest.raises(ProtoRKDError, match=f"kinds must have {split} images for this task; got none"):
        split_of(replace(found, **{split: None}), split)
