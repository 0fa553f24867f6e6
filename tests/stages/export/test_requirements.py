"""What an export tells people to install."""

import pytest

from stages.export.requirements import requirements_of


@pytest.mark.parametrize(
    ("backbone", "package"),
    [
        ("timm:tf_efficientnet_lite0", "timm"),
        ("hf:facebook/dinov2-small", "transformers"),
        ("open-clip:ViT-B-32", "open_clip_torch"),
        ("RN50", "open_clip_torch"),
    ],
)
def test_requirements_of__names_the_library_of_the_backbone(backbone: str, package: str) -> None:
    assert list(requirements_of(backbone)) == ["sentence-transformers", "torchvision", package]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50w2"])
def test_requirements_of__needs_nothing_more_for_torchvision(backbone: str) -> None:
    assert list(requirements_of(backbone)) == ["sentence-transformers", "torchvision"]
