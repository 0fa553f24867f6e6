"""Backbones and heads that an export builds: the same keys and numbers as this project's."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from frozen_students import EVERY_HEAD, head_tensors
from torch import nn

from data_schemas.images.student_checkpoint import HeadConfig
from stages.components.backbones.hf_family import KINDS
from stages.components.backbones.registry import find_family
from stages.components.backbones.wide_resnet import build_wide_resnet
from stages.components.student.heads import build_feature_head as build_ours
from stages.export import networks_protorkd
from stages.export.networks_protorkd import build_backbone, build_feature_head


@pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: head.kind)
@torch.inference_mode()
def test_build_feature_head__embeds_as_ours(head: HeadConfig) -> None:
    weights = head_tensors(head, feature_dim=12, seed=3)
    tensors = {name.removeprefix("head."): tensor for name, tensor in weights.items()}
    ours = build_ours(head, feature_dim=12, embedding_dim=16).eval()
    theirs = build_feature_head(12, 16, kind=head.kind, width=head.width).eval()
    for each in (ours, theirs):
        each.load_state_dict(tensors)
    features = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(features), ours(features))


def test_build_feature_head__names_the_kinds_that_there_are() -> None:
    with pytest.raises(ValueError, match="linear, mlp, gated or residual; got 'deep'"):
        build_feature_head(4, 4, kind="deep")


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_convnext", "timm:test_efficientnet"])
@torch.inference_mode()
def test_build_backbone__computes_as_ours_of_timm(name: str) -> None:
    family, short = find_family(name)
    ours = family.build(short, image_size=64, pooling="native").network
    theirs, width = build_backbone(name, image_size=64)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(theirs(images), ours(images))
    assert width == ours(images).shape[1]


def test_build_backbone__takes_another_size_than_a_vision_transformers_own() -> None:
    _, width = build_backbone("timm:test_vit", image_size=64)
    assert width == 64


@pytest.mark.parametrize(("pooling", "widening"), [("cls", 1), ("mean", 1), ("cls+mean", 2)])
def test_build_backbone__pools_tokens_of_timm(pooling: str, widening: int) -> None:
    _, width = build_backbone("timm:test_vit", image_size=160, pooling=pooling)
    assert width == 64 * widening


DINOV2 = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
CLIP = {**SIGLIP, "model_type": "clip_vision_model", "projection_dim": 8}


@pytest.mark.parametrize(
    ("architecture", "pooling", "wanted"),
    [
        (DINOV2, "native", 16),
        (DINOV2, "cls+mean", 32),
        (SIGLIP, "native", 16),
        (SIGLIP, "mean", 16),
        (CLIP, "native", 8),
        (CLIP, "cls", 16),
    ],
)
def test_build_backbone__of_transformers_is_built_from_its_architecture(
    architecture: dict[str, Any], pooling: str, wanted: int
) -> None:
    _, width = build_backbone("hf:some/model", image_size=32, pooling=pooling, architecture=architecture)
    assert width == wanted


@torch.inference_mode()
def test_build_backbone__pools_tokens_of_transformers_without_class_token_and_registers() -> None:
    architecture = {**DINOV2, "model_type": "dinov2_with_registers", "num_register_tokens": 3}
    network, _ = build_backbone("hf:some/model", image_size=28, pooling="cls+mean", architecture=architecture)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    tokens = network.model(pixel_values=images).last_hidden_state
    assert tokens.shape[1] == 1 + 3 + 4
    assert torch.allclose(network(images), torch.cat([tokens[:, 0], tokens[:, 4:].mean(dim=1)], dim=1))


def test_build_backbone__of_transformers_knows_every_kind_that_the_project_knows() -> None:
    kinds = {name: (kind.model, kind.output, kind.num_prefix, kind.adds_pooler) for name, kind in KINDS.items()}
    assert kinds == networks_protorkd._HF_KINDS


def test_build_backbone__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        build_backbone("timm:test_resnet", image_size=64)


@pytest.mark.parametrize(("name", "message"), [("timm:no_such_net", "known to timm"), ("hf:x/y", "dinov2")])
def test_build_backbone__refuses_what_it_does_not_know(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, image_size=64)


def test_build_backbone__has_the_wide_resnets_keys_and_shapes() -> None:
    with torch.device("meta"):
        ours = build_wide_resnet(widening=2).state_dict()
    theirs, width = build_backbone("resnet50w2", image_size=32)
    assert width == 4096
    assert {name: tensor.shape for name, tensor in theirs.state_dict().items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


class Tower(nn.Module):
    """Stands in for a CLIP of open_clip: what it was told, and an image's mean colours."""

    def __init__(self, embed_dim: int, vision_cfg: dict[str, Any], text_cfg: object, quick_gelu: bool) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.AvgPool2d(vision_cfg["image_size"]), nn.Flatten(), nn.Linear(3, embed_dim))


def test_build_backbone__asks_open_clip_for_its_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "open_clip", None)
        with pytest.raises(ValueError, match="pip install open_clip_torch"):
            build_backbone("RN50", image_size=32)
    package = SimpleNamespace(
        CLIP=Tower,
        list_models=lambda: ["RN50"],
        get_model_config=lambda _: {"embed_dim": 6, "vision_cfg": {"image_size": 224}},
    )
    monkeypatch.setitem(sys.modules, "open_clip", package)
    for name in ("RN50", "open-clip:RN50"):
        _, width = build_backbone(name, image_size=32)
        assert width == 6
    with pytest.raises(ValueError, match="RN51"):
        build_backbone("open-clip:RN51", image_size=32)
