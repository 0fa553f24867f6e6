"""ResNet-50 with all planes widened."""

import pytest
import torch
import torchvision
from torch import nn

from stages.components.backbones.torchvision_family import WIDE_RESNETS
from stages.components.backbones.wide_resnet import build_wide_resnet


def build_meta(name: str) -> nn.Sequential:
    """Shapes without numbers: the widest has 2 GB of weights."""
    with torch.device("meta"):
        return build_wide_resnet(widening=WIDE_RESNETS[name])


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet50w2", 93.9), ("resnet50w4", 375.4), ("resnet50w5", 586.5)],  # SwAV's README: 94, 375, 586
)
def test_wide_resnet__has_as_many_parameters_as_swavs(name: str, millions: float) -> None:
    num_parameters = sum(parameter.numel() for parameter in build_meta(name).parameters())
    assert round(num_parameters / 1e6, 1) == millions


@pytest.mark.parametrize("name", WIDE_RESNETS)
def test_wide_resnet__has_every_name_of_torchvisions_and_every_width_widened(name: str) -> None:
    with torch.device("meta"):
        plain = torchvision.models.resnet50().state_dict()
    wide = build_meta(name).state_dict()
    assert [key for key in plain if not key.startswith("fc.")] == list(wide)
    for key, tensor in wide.items():
        # A kernel's own sides, and the colours of the first, stay as they are.
        widened = [
            size * WIDE_RESNETS[name] if axis < 2 and size != 3 else size for axis, size in enumerate(plain[key].shape)
        ]
        assert list(tensor.shape) == widened, key


def test_wide_resnet__computes_what_torchvisions_does_at_its_width() -> None:
    plain, wide = torchvision.models.resnet50(num_classes=1), build_wide_resnet(widening=1)
    plain.fc = nn.Identity()
    wide.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(wide.train()(images), plain.train()(images))


def test_wide_resnet__starts_as_torchvisions_does() -> None:
    wide, plain = build_wide_resnet(widening=1).state_dict(), torchvision.models.resnet50(num_classes=1).state_dict()
    for key, tensor in wide.items():
        if tensor.dim() > 1:
            torch.testing.assert_close(tensor.std(), plain[key].std(), rtol=0.1, atol=0)
        else:
            assert torch.equal(tensor, plain[key])
