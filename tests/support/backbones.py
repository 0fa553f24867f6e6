"""A tiny frozen backbone in a store."""

import safetensors.torch
import torch

from pipeline.runner import context_of
from pipeline.store.store import Artifact, Store
from stages.components.backbones.frozen import BackboneParams, identify_weights, make_backbone

TINY_SIZE = 32


def make_tiny_backbone(
    store: Store, name: str = "timm:test_resnet", *, image_size: int = TINY_SIZE, seed: int = 0
) -> Artifact:
    """Make the artifact of one of timm's backbones for tests, of random weights that its own family reads."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name.removeprefix("timm:"), pretrained=False)
    file = store.root.parent / f"{name.removeprefix('timm:')}_{seed}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), file)
    context = context_of(store)
    params = BackboneParams(name=name, image_size=image_size)
    return make_backbone(params, identify_weights(name, file, context), context)
