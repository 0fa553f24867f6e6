"""Backbones for tests: torchvision's as networks, and a tiny frozen one of timm in a store."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages.components.backbones.frozen import BackboneParams, identify_weights, make_backbone
from stages.components.backbones.registry import build_backbone, measure_features

TINY = "timm:test_resnet"


def build_network(name: str, *, image_size: int) -> tuple[Any, int]:
    """Build an untrained network in train mode, and return it with the width of its features."""
    network: nn.Module = build_backbone(name, image_size=image_size).network
    return network.train(), measure_features(name, network, image_size=image_size)


def make_tiny_backbone(
    store: Store, *, name: str = TINY, image_size: int = 32, pooling: str = "native", seed: int = 0
) -> Artifact:
    """Make the artifact of a tiny frozen backbone of timm, from a file of random weights beside the store.

    Args:
        store: Store of the artifact.
        name: Name of the backbone.
        image_size: Side of its square input in pixels.
        pooling: Pooling of its tokens.
        seed: Seed of its weights.
    """
    path = Path(str(store.root)).resolve().parent / f"{name.rpartition(':')[2]}_{seed}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = build_backbone(name, image_size=image_size).network.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, path)
    context = context_of(store)
    params = BackboneParams(name=name, image_size=image_size, pooling=pooling)
    return make_backbone(params, identify_weights(name, path, context), context)
