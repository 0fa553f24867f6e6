"""Find the blocks that a backbone is stacked from, whatever its family: what is recomputed, or trained, as a whole."""

import re

from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.densenet import _DenseLayer
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.regnet import ResBottleneckBlock
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

from data_schemas.errors import ProtoRKDError

_BLOCKS: dict[str, tuple[type[nn.Module], ...]] = {
    "resnet": (BasicBlock, Bottleneck),
    "densenet": (_DenseLayer,),
    "efficientnet": (MBConv, FusedMBConv),
    "regnet": (ResBottleneckBlock,),
    "convnext": (CNBlock,),
    "vit": (EncoderBlock,),
    "swin": (SwinTransformerBlock,),
}
_BLOCKS_BY_NAME = {
    "open_clip.": re.compile("Bottleneck|ResidualAttentionBlock|CustomResidualAttentionBlock"),
    "timm.": re.compile(
        r"\w*Block(1d|2d)?|\w*Bottle2?neck|\w*Basic|\w*Residual|DepthwiseSeparableConv|ConvBnAct|MobileAttention"
    ),
    "transformers.models.": re.compile(r"\w*(?<!Conv)Layer"),
}
"""Names of the classes of blocks, by the beginning of their modules, of which each model has its own."""


def find_blocks(backbone: nn.Module, *, flag: str, instead: str = "Leave it out") -> list[nn.Module]:
    """List the blocks of a backbone in the order in which they are defined, which is that of the pass through them.

    Args:
        backbone: Backbone of any family.
        flag: Option that asks for blocks, for the message.
        instead: What serves in its place, for the message.

    Raises:
        ProtoRKDError: it has no known blocks.
    """
    blocks = _outermost(backbone)
    if not blocks:
        raise ProtoRKDError(
            f"{flag} must have a --student of known blocks; got {type(backbone).__name__}. {instead}, or pass one "
            f"of the families {', '.join(_BLOCKS)}, a ResNet or ViT of OpenCLIP, or most models of timm or the hub."
        )
    return blocks


def _outermost(module: nn.Module) -> list[nn.Module]:
    if _is_block(module):
        return [module]
    return [block for child in module.children() for block in _outermost(child)]


def _is_block(module: nn.Module) -> bool:
    kind = type(module)
    for place, names in _BLOCKS_BY_NAME.items():  # their types are many, or optional
        if kind.__module__.startswith(place):
            return names.fullmatch(kind.__name__) is not None
    return any(isinstance(module, types) for types in _BLOCKS.values())
