"""A tiny frozen backbone in a store."""

from pathlib import Path

import safetensors.torch
import torch

from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages.components.backbones.frozen import BackboneParams, identify_weights, make_backbone
from stages.components.backbones.registry import find_family

TINY = "timm:test_resnet"


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
    family, short = find_family(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = family.build(short, image_size=image_size, pooling="native").network.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, path)
    context = context_of(store)
    params = BackboneParams(name=name, image_size=image_size, pooling=pooling)
    return make_backbone(params, identify_weights(name, path, context), context)
