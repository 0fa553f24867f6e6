"""Low-rank adapters, LoRA by the peft library: what trains in a transformer in place of its own weights."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.student.blocks import find_blocks
from stages.components.student.student import Student

INSTALL = "pip install 'protorkd[lora]'"

_IN_PROJECTION = "in_proj_weight"
_A, _B = "A.default.weight", "B.default.weight"


def import_peft() -> Any:
    """Import the library of adapters, which is an extra of this project's.

    Raises:
        ProtoRKDError: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ProtoRKDError(f"--lora must have peft; it cannot be imported ({error}). Run {INSTALL}.") from error


def find_adaptable(backbone: nn.Module, *, image_size: int) -> dict[str, nn.Module]:
    """Find the layers of a backbone's blocks that take adapters, by name: linear ones, and attention of torch.

    Those alone that a pass calls: where a layer's weight is read past it, as torch's attention reads that of its last
    projection, nothing would train an adapter.

    Args:
        backbone: Backbone of any family; its mode stays as it is.
        image_size: Side of its square input in pixels.

    Raises:
        ProtoRKDError: it has no known blocks, or no such layers in them.
    """
    blocks = find_blocks(backbone, flag="--lora", instead="Pass --unfreeze all in its place")
    inside = {id(module) for block in blocks for module in block.modules()}
    layers = {
        name: module
        for name, module in backbone.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | nn.MultiheadAttention)
    }
    called = _called(backbone, layers, image_size=image_size)
    if not called:
        raise ProtoRKDError(
            f"--lora must have a backbone with linear layers in its blocks, as transformers have them; got "
            f"{type(backbone).__name__}. Pass --unfreeze in its place, which trains the weights themselves."
        )
    return {name: layers[name] for name in layers if name in called}


def add_adapters(student: Student, *, rank: int, image_size: int) -> int:
    """Freeze the backbone, and put an adapter on each of its `find_adaptable` layers.

    Hu et al., LoRA, 2021, arXiv:2106.09685: W x becomes W x + B A x, with A drawn and B zero, so that the student is at
    first what it was. On all linear layers of the blocks, as Dettmers et al., QLoRA, 2023, arXiv:2305.14314, found
    needed to match training the whole; of torch's attention, on the projections of query, key and value. The product
    is not scaled, which peft calls an alpha of the rank.

    Args:
        student: Student, changed in place; its backbone stays in eval mode.
        rank: Number of rows of A, and columns of B.
        image_size: Side of its square input in pixels.

    Returns:
        Number of layers that have an adapter.

    Raises:
        ProtoRKDError: peft is not installed, or the backbone has no such layers.
    """
    peft = import_peft()
    layers = find_adaptable(student.backbone, image_size=image_size)
    linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    attention = [f"{name}.{_IN_PROJECTION}" for name in layers if name not in linear]
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules="|".join(map(re.escape, linear)) or [], target_parameters=attention
    )
    peft.inject_adapter_in_model(config, student.backbone)
    student.frozen = ("backbone",)
    student.train(student.training)
    return len(layers)


def merge_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge the adapters of a state dict into the weights that they adapt, W + B A, under the names of before.

    A state dict without adapters comes back as it is.
    """
    merged = dict(tensors)
    layers = [name.removesuffix(f".lora_{_A}") for name in tensors if name.endswith(f".lora_{_A}")]
    for layer in sorted(layers, key=len, reverse=True):  # what is inside another first
        own = _take(merged, f"{layer}.base_layer.")
        adapter = _take(merged, f"{layer}.lora_")
        weight = _IN_PROJECTION if _IN_PROJECTION in own else "weight"
        own[weight] = own[weight] + adapter[_B] @ adapter[_A]
        merged |= {f"{layer}.{name}": tensor for name, tensor in own.items()}
    return merged


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors whose names have a prefix out, by the rest of their names."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _called(backbone: nn.Module, layers: Mapping[str, nn.Module], *, image_size: int) -> set[str]:
    """Name the layers that a pass through the backbone calls."""
    called: set[str] = set()
    hooks = [module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in layers.items()]
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    finally:
        backbone.train(was_training)
        for hook in hooks:
            hook.remove()
    return called
