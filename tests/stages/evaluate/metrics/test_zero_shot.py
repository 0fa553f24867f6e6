import numpy as np
import pytest
import torch

from data_schemas.errors import ProtoRKDError
from stages.evaluate.metrics.zero_shot import class_embeddings, class_scores, per_class_top1
from stages.evaluate.sets.prompts import TEMPLATES, fill


def test_class_scores__are_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    images, classes = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    expected = torch.nn.functional.cosine_similarity(images[:, None], classes[None], dim=2)
    torch.testing.assert_close(class_scores(image_embeddings=9 * images, class_embeddings=0.1 * classes), expected)


def test_per_class_top1__is_nan_for_a_class_without_images() -> None:
    scores = class_scores(image_embeddings=torch.eye(3)[[0, 0, 1, 2]], class_embeddings=torch.eye(3))
    assert scores.shape == (4, 3)
    per_class = per_class_top1(scores=scores, labels=torch.tensor([0, 0, 0, 2]))
    np.testing.assert_allclose(per_class.numpy(), [200 / 3, np.nan, 100.0])


def test_per_class_top1__refuses_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match="from 0 to 2"):
        per_class_top1(scores=torch.eye(3), labels=torch.tensor([0, 1, 3]))


def test_class_scores__refuse_embeddings_that_are_not_finite() -> None:
    with pytest.raises(ProtoRKDError, match="Image embeddings must be finite"):
        class_scores(image_embeddings=torch.eye(3) / 0, class_embeddings=torch.eye(3))


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
