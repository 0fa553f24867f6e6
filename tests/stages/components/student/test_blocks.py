"""Blocks are found in backbones of every family, in the order of the pass through them."""

from typing import Any

import pytest
import timm
import torch
import transformers

from data_schemas.errors import ProtoRKDError
from stages.components.backbones.hf_family import KINDS
from stages.components.backbones.registry import build_backbone
from stages.components.student.blocks import find_blocks

NUM_BLOCKS = {
    "beit": 12,
    "clip_vision_model": 12,
    "convnext": 18,
    "convnextv2": 18,
    "deit": 12,
    "dinov2": 12,
    "dinov2_with_registers": 12,
    "dinov3_convnext": 18,
    "dinov3_vit": 12,
    "resnet": 16,
    "siglip_vision_model": 12,
    "swin": 12,
    "swinv2": 12,
    "vit": 12,
}


def build_unweighted(kind: str) -> Any:
    with torch.device("meta"):
        return getattr(transformers, KINDS[kind].model)(transformers.AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_find_blocks__knows_every_kind_of_the_hub(kind: str) -> None:
    blocks = find_blocks(build_unweighted(kind), flag="--unfreeze")
    assert len(blocks) == NUM_BLOCKS[kind]
    assert len({type(block) for block in blocks}) == 1


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [
        ("test_resnet", 4),
        ("test_vit", 6),
        ("test_efficientnet", 5),
        ("test_convnext", 9),
        ("test_byobnet", 4),
        ("tf_efficientnet_lite0", 16),
        ("vit_small_patch16_224", 12),
        ("swin_tiny_patch4_window7_224", 12),
        ("resnet18", 8),
        ("resnetv2_18", 8),
        ("mobilenetv3_small_100", 12),
        ("eva02_tiny_patch14_224", 12),
    ],
)
def test_find_blocks__knows_models_of_timm(name: str, num_blocks: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert len(find_blocks(network, flag="--unfreeze")) == num_blocks


def test_find_blocks__goes_in_the_order_of_the_pass() -> None:
    network: Any = build_backbone("timm:test_resnet", image_size=32).network
    expected = [block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage]
    assert find_blocks(network, flag="--unfreeze") == expected


def test_find_blocks__names_the_option_and_the_network_without_known_blocks() -> None:
    network = build_backbone("squeezenet1_1", image_size=64).network
    with pytest.raises(ProtoRKDError, match=r"--unfreeze must have a --student of known blocks; got SqueezeNet"):
        find_blocks(network, flag="--unfreeze")
