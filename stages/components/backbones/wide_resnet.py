"""ResNet-50 with every layer two, four or five times as wide."""

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import Bottleneck

_NUM_BLOCKS = (3, 4, 6, 3)


def build_wide_resnet(*, widening: int) -> nn.Sequential:
    """Make an untrained wide ResNet without classifier, (batch, 3, size, size) to (batch, 2048 * widening).

    Caron et al., SwAV, 2020, arXiv:2006.09882, train these three. torchvision's ``wide_resnet50_2`` is another
    architecture, wide inside its bottlenecks alone; names of layers are torchvision's all the same.

    Args:
        widening: Factor over ResNet-50: 2, 4 or 5.
    """
    width = 64 * widening
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    num_channels = width
    for index, num_blocks in enumerate(_NUM_BLOCKS):
        layers[f"layer{index + 1}"] = _build_layer(
            num_channels, planes=width * 2**index, num_blocks=num_blocks, stride=2 if index else 1
        )
        num_channels = width * 2**index * Bottleneck.expansion
    network = nn.Sequential(layers | {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Identity()})
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _build_layer(num_channels: int, *, planes: int, num_blocks: int, stride: int) -> nn.Sequential:
    width = planes * Bottleneck.expansion
    downsample = nn.Sequential(nn.Conv2d(num_channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    first = Bottleneck(num_channels, planes, stride, downsample)
    return nn.Sequential(first, *(Bottleneck(width, planes) for _ in range(num_blocks - 1)))
