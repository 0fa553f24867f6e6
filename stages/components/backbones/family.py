"""What a family of backbones can do: each is one file, and one line in `registry.FAMILIES`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from data_schemas.student_checkpoint import Preprocessing

POOLINGS = ("native", "cls", "mean", "cls+mean")
"""Ways to pool a transformer's tokens to features; native is the model's own."""


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that lie on this machine.

    Args:
        files: Files whose bytes identify them: weights, and the configuration where there is one.
        source: Where they came from, for people: a file's name, or a model's name and commit on the hub.
    """

    files: tuple[Path, ...]
    source: str


@dataclass(frozen=True)
class BuiltBackbone:
    """A backbone without classifier, in eval mode, and how its images are prepared.

    Args:
        network: Maps images, (batch, 3, height, width), float, to features, (batch, feature_dim), float.
        preprocessing: Preprocessing of its images.
        architecture: Configuration that the same network is built from again without its hub; None where the name does.
    """

    network: nn.Module
    preprocessing: Preprocessing
    architecture: dict[str, Any] | None = None


class BackboneFamily(Protocol):
    """A source of backbones that share a naming and a layout of weights."""

    prefix: str
    """What a name of the family begins with, such as "timm:"; "" for names without prefix."""

    def names(self) -> list[str]:
        """List the names of the family, without prefix; empty where the family is not installed or has no list."""

    def find_weights(self, name: str) -> PublishedWeights:
        """Find the weights that are published under a name, downloading them at most once; imports no torch.

        Raises:
            ProtoRKDError: there are none, or neither cache nor network has them; the message says how to get them.
        """

    def build(
        self, name: str, *, image_size: int, pooling: str, architecture: Mapping[str, Any] | None = None
    ) -> BuiltBackbone:
        """Build a backbone without weights.

        Args:
            name: Name without prefix.
            image_size: Side of its square input in pixels; 0 is the model's own.
            pooling: One of `POOLINGS`.
            architecture: As a `BuiltBackbone` had it; None looks the name up.

        Raises:
            ProtoRKDError: there is no such backbone, or it does not take such images or such pooling.
        """

    def backbone_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the tensors of the backbone from a file of the family's layout, by the network's own names."""
