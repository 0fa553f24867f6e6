"""Gradient checkpointing: a backbone's blocks keep only their inputs, and are computed again in the backward pass."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.components.student.blocks import find_blocks


def enable_gradient_checkpointing(backbone: nn.Module) -> int:
    """Enable gradient checkpointing in a backbone, in place: a third more time, the memory of one block at a time.

    Chen et al., 2016, arXiv:1604.06174. Loss, gradients, running statistics and names in the state dict stay the same.

    Returns:
        Number of blocks that are computed again in the backward pass.

    Raises:
        ProtoRKDError: the backbone has no known blocks.
    """
    blocks = find_blocks(backbone, flag="--checkpoint-gradients")
    for block in blocks:
        if "forward" not in vars(block):  # not yet enabled
            block.forward = functools.partial(_forward, block, block.forward)
    return len(blocks)


def _forward(block: nn.Module, compute: Callable[..., Tensor], *inputs: Any, **options: Any) -> Tensor:
    # densenet passes the same list to every layer, and appends to it before the second pass.
    inputs = tuple(list(value) if isinstance(value, list) else value for value in inputs)
    if torch.compiler.is_compiling():  # the compiler itself keeps a second pass from changing buffers
        compiled: Tensor = checkpoint(compute, *inputs, use_reentrant=False, **options)
        return compiled
    output: Tensor = checkpoint(
        compute, *inputs, use_reentrant=False, context_fn=functools.partial(_contexts, block), **options
    )
    return output


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _BuffersAside(block)


class _BuffersAside:
    """A context in which a block works on copies of its buffers; its second pass moves no running statistics."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._buffers: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        for module in self._block.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                self._buffers.append((module, name, buffer))
                setattr(module, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        while self._buffers:
            setattr(*self._buffers.pop())
