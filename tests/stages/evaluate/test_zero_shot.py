import numpy as np
import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.evaluate.prompts import TEMPLATES, class_name_from_folder, fill
from stages.evaluate.zero_shot import class_embeddings, class_scores, per_class_top1, zero_shot_metrics


def some_set(num_classes: int, *, num_images: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    classes = torch.randn(num_classes, 8, generator=generator)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    return classes[labels] + torch.randn(num_images, 8, generator=generator), labels, classes


def test_zero_shot_metrics__agree_with_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    images, labels, classes = some_set(9)
    scores = torch.nn.functional.cosine_similarity(images[:, None], classes[None], dim=2).numpy()
    metrics = zero_shot_metrics(image_embeddings=images, labels=labels, class_embeddings=classes)
    assert metrics == pytest.approx(
        {
            "top1": 100 * top_k_accuracy_score(labels, scores, k=1),
            "top5": 100 * top_k_accuracy_score(labels, scores, k=5),
            "mean_per_class": 100 * balanced_accuracy_score(labels, scores.argmax(axis=1)),
        }
    )


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_zero_shot_metrics__have_top5_for_more_than_five_classes(num_classes: int, has_top5: bool) -> None:
    images, labels, classes = some_set(num_classes)
    metrics = zero_shot_metrics(image_embeddings=images, labels=labels, class_embeddings=classes)
    assert ("top5" in metrics) == has_top5


@pytest.mark.parametrize("collapsed", [torch.zeros(60, 8), torch.linspace(-1, 1, 8).repeat(60, 1)])
def test_zero_shot_metrics__score_equal_classes_as_chance(collapsed: torch.Tensor) -> None:
    _, labels, _ = some_set(10)
    metrics = zero_shot_metrics(image_embeddings=collapsed, labels=labels, class_embeddings=torch.ones(10, 8))
    assert metrics == pytest.approx({"top1": 10.0, "top5": 50.0, "mean_per_class": 10.0})


def test_zero_shot_metrics__average_the_classes_that_have_images() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    images = torch.eye(3)[[0, 0, 1, 2]]
    metrics = zero_shot_metrics(image_embeddings=images, labels=labels, class_embeddings=torch.eye(3))
    assert metrics == pytest.approx({"top1": 75.0, "mean_per_class": 100 * (2 / 3 + 1) / 2})


def test_per_class_top1__is_nan_for_a_class_without_images() -> None:
    scores = class_scores(image_embeddings=torch.eye(3)[[0, 0, 1, 2]], class_embeddings=torch.eye(3))
    assert scores.shape == (4, 3)
    per_class = per_class_top1(scores=scores, labels=torch.tensor([0, 0, 0, 2]))
    np.testing.assert_allclose(per_class.numpy(), [200 / 3, np.nan, 100.0])


def test_zero_shot_metrics__refuse_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match="from 0 to 2"):
        zero_shot_metrics(image_embeddings=torch.eye(3), labels=torch.tensor([0, 1, 3]), class_embeddings=torch.eye(3))


def test_zero_shot_metrics__refuse_embeddings_that_are_not_finite() -> None:
    with pytest.raises(ProtoRKDError, match="Image embeddings must be finite"):
        zero_shot_metrics(
            image_embeddings=torch.eye(3) / 0, labels=torch.tensor([0, 1, 2]), class_embeddings=torch.eye(3)
        )


def test_class_embeddings__weighs_every_prompt_alike() -> None:
    prompts = torch.tensor([[[10.0, 0.0], [0.0, 0.1]], [[0.0, 3.0], [0.0, 5.0]]])
    classes = class_embeddings(prompts)
    assert classes.shape == (2, 2)
    half = 0.5**0.5
    torch.testing.assert_close(classes, torch.tensor([[half, half], [0.0, 1.0]]))


def test_class_embeddings__stays_finite_where_prompts_cancel_out() -> None:
    assert class_embeddings(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).tolist() == [[0.0, 0.0]]


def test_templates__each_take_a_class_name() -> None:
    prompts = [fill(template, "jet plane") for template in TEMPLATES]
    assert len(set(prompts)) == len(TEMPLATES) == 8
    assert all("jet plane" in prompt and "{" not in prompt for prompt in prompts)


def test_fill__leaves_other_braces_alone() -> None:
    assert fill("a {0} {} {x.__class__}", "{}cat") == "a {0} {}cat {x.__class__}"


def test_fill__refuses_a_template_without_a_place() -> None:
    with pytest.raises(ProtoRKDError, match=r"--template must hold \{\} .*; got 'a photo'"):
        fill("a photo", "cat")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("jet_plane", "jet plane"), ("cat", "cat"), ("_polar__bear_", "polar bear"), ("x-ray", "x-ray")],
)
def test_class_name_from_folder__reads_underscores_as_spaces(folder: str, name: str) -> None:
    assert class_name_from_folder(folder) == name
