"""Blocks that are computed twice give what blocks that are computed once give."""

import copy
from pathlib import Path

import pytest
import torch
from backbones import build_network
from hub_models import save_vision_model
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock

from data_schemas.errors import ProtoRKDError
from stages.components.student.gradient_checkpointing import enable_gradient_checkpointing

slow = pytest.mark.slow


def step(backbone: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of two passes, under one seed for dropout."""
    torch.manual_seed(1)
    loss = backbone(images).square().mean() + backbone(images.flip(0)).mean()
    loss.backward()
    return loss.detach(), {key: parameter.grad for key, parameter in backbone.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [
        ("resnet18", 8),
        ("timm:test_resnet", 4),
        ("timm:test_vit", 6),
        ("timm:test_efficientnet", 5),
        pytest.param("vit_b_32", 12, marks=slow),
        pytest.param("resnet50", 16, marks=slow),
        pytest.param("densenet121", 58, marks=slow),
        pytest.param("efficientnet_b0", 16, marks=slow),
        pytest.param("efficientnet_v2_s", 40, marks=slow),
        pytest.param("regnet_y_400mf", 16, marks=slow),
        pytest.param("convnext_tiny", 18, marks=slow),
        pytest.param("swin_t", 12, marks=slow),
        pytest.param("swin_v2_t", 12, marks=slow),
    ],
)
def test_checkpointed__has_the_same_loss_gradients_buffers_and_names(name: str, num_blocks: int) -> None:
    torch.manual_seed(0)
    plain, _ = build_network(name, image_size=32)
    check_same_as_plain(plain, num_blocks)


@pytest.mark.parametrize(("kind", "num_blocks"), [("vit", 2), ("convnext", 4), ("dinov3", 2), ("siglip", 2)])
def test_checkpointed__computes_the_same_in_models_of_the_hub(kind: str, num_blocks: int, tmp_path: Path) -> None:
    save_vision_model(kind, tmp_path / kind)
    check_same_as_plain(build_network(f"hf:{tmp_path / kind}", image_size=32)[0], num_blocks)


def test_checkpointed__draws_the_same_dropout_twice() -> None:
    transformer = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, dropout=0.3, num_classes=5
    )
    nn.init.normal_(transformer.heads.head.weight)  # zeros would stop all gradients
    check_same_as_plain(transformer, 3)


def check_same_as_plain(plain: nn.Module, num_blocks: int) -> None:
    checkpointed = copy.deepcopy(plain)
    assert enable_gradient_checkpointing(checkpointed) == num_blocks
    images = torch.randn(4, 3, 32, 32)
    (loss, gradients), (other_loss, other_gradients) = step(plain, images), step(checkpointed, images)
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_gradients, gradients)
    torch.testing.assert_close(checkpointed.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())


class Counting(nn.Conv2d):
    passes = 0

    def forward(self, features: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(features)


def test_checkpointed__computes_twice_in_training_and_once_in_evaluation() -> None:
    backbone, _ = build_network("resnet18", image_size=32)
    counting = backbone.layer1[0].conv1 = Counting(64, 64, 3, padding=1)  # type: ignore[index]
    enable_gradient_checkpointing(backbone)
    images = torch.randn(2, 3, 32, 32)
    backbone(images).sum().backward()
    assert counting.passes == 2
    with torch.no_grad():
        backbone.eval()(images)
    assert counting.passes == 3


def test_checkpointed__stays_so_when_copied_and_works_on_its_own_weights() -> None:
    backbone, _ = build_network("resnet18", image_size=32)
    enable_gradient_checkpointing(backbone)
    copied = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    images = torch.randn(2, 3, 32, 32)
    assert not copied(images).any()
    assert backbone(images).any()


def test_checkpointed__compiles_to_the_same_gradients_and_buffers() -> None:
    def seen(*, compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        backbone = nn.Sequential(BasicBlock(4, 4))
        enable_gradient_checkpointing(backbone)
        if compiled:
            backbone.compile(backend="aot_eager")
        backbone(torch.randn(2, 4, 6, 6)).square().mean().backward()
        return [
            *backbone.buffers(),
            *(parameter.grad for parameter in backbone.parameters() if parameter.grad is not None),
        ]

    for ours, expected in zip(seen(compiled=True), seen(compiled=False), strict=True):
        torch.testing.assert_close(ours, expected)


def test_checkpointed__can_be_enabled_twice() -> None:
    backbone, _ = build_network("resnet18", image_size=32)
    enable_gradient_checkpointing(backbone)
    forward = backbone.layer1[0].forward  # type: ignore[index, union-attr]
    assert enable_gradient_checkpointing(backbone) == 8
    assert backbone.layer1[0].forward is forward  # type: ignore[index, union-attr]


def test_checkpointed__gives_gradients_again_from_a_kept_graph() -> None:
    backbone, _ = build_network("resnet18", image_size=32)
    enable_gradient_checkpointing(backbone)
    loss = backbone(torch.randn(2, 3, 32, 32)).square().mean()
    first, second = (
        torch.autograd.grad(loss, backbone.conv1.weight, retain_graph=True)[0]  # type: ignore[union-attr]
        for _ in range(2)
    )
    torch.testing.assert_close(first, second)
    assert backbone.layer1[0].bn1.num_batches_tracked == 1  # type: ignore[index, union-attr]


def test_enable_gradient_checkpointing__refuses_a_backbone_without_known_blocks() -> None:
    backbone, _ = build_network("squeezenet1_1", image_size=32)
    with pytest.raises(ProtoRKDError, match=r"known blocks; got SqueezeNet.*resnet, densenet,.*vit, swin"):
        enable_gradient_checkpointing(backbone)
