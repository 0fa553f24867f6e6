import pytest
import torch

from stages.evaluate.page.embedding_maps import class_map, cluster_map


def fan(num: int) -> torch.Tensor:
    """Directions spread over a right angle, the same step apart."""
    angles = torch.linspace(0, torch.pi / 2, num)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_cluster_map__calls_a_cluster_after_the_image_at_its_centre() -> None:
    drawn = cluster_map(fan(7), names={number: f"image {number}" for number in range(7)}, method="pca", seed=0)
    assert drawn is not None
    [entry] = drawn.drawn.legend
    assert (entry.name, entry.num_dots) == ("image 3", 7)


def test_cluster_map__stands_a_collapsed_student() -> None:
    drawn = cluster_map(torch.ones(30, 4), names=dict.fromkeys(range(30), "image"), method="pca", seed=0)
    assert drawn is not None
    assert sum(entry.num_dots for entry in drawn.drawn.legend) == 30


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_class_map__says_how_it_was_made(method: str) -> None:
    labels = torch.arange(8) % 2
    drawn = class_map(fan(8), labels=labels, class_names=("cat", "dog"), method=method, seed=0)
    assert drawn is not None
    assert (drawn.method, drawn.grouping, drawn.num_images) == (method, "class", 8)
    assert [(entry.name, entry.num_dots) for entry in drawn.drawn.legend] == [("cat", 4), ("dog", 4)]
    assert 'aria-label="8 images as dots in the plane, coloured by class"' in drawn.drawn.svg


def test_class_map__shows_a_sample_of_many_images() -> None:
    drawn = class_map(fan(2_100), labels=torch.zeros(2_100).long(), class_names=("cat",), method="pca", seed=0)
    assert drawn is not None
    assert drawn.num_images == 2_100
    assert drawn.drawn.legend[0].num_dots == 2_000
