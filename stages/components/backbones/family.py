"""What a family of backbones can do: each is one file, and one line in `registry.FAMILIES`."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_schemas.images.student_checkpoint import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

POOLINGS = ("native", "cls", "mean", "cls+mean")
"""Ways to pool a transformer's tokens to features; native is the model's own."""


@dataclass(frozen=True)
class BackboneSource:
    """Files of a backbone on this machine.

    Args:
        weights: Files of its weights; several where they are sharded, none where only its description was wanted.
        description: Files that say what is built and how its images are prepared; none where the name says it all.
        source: Where they came from, for people: a path, or a model's name and commit on the hub.
        is_published: Whether the weights are those that the family publishes under the name, not a file of any layout.
    """

    weights: tuple[Path, ...]
    description: tuple[Path, ...] = ()
    source: str = ""
    is_published: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, whose bytes identify the backbone."""
        return self.weights + self.description


@dataclass(frozen=True)
class BuiltBackbone:
    """A backbone without classifier, in eval mode, and how its images are prepared.

    Args:
        network: Maps images, (batch, 3, height, width), float, to features, (batch, feature_dim), float.
        preprocessing: Preprocessing of its images, as the published weights want it; where the network was built from
            an architecture alone, its size is all that counts.
        architecture: Configuration that the same network is built from again without its hub; None where the name does.
    """

    network: "nn.Module"
    preprocessing: Preprocessing
    architecture: dict[str, Any] | None = None


class BackboneFamily(Protocol):
    """A source of backbones that share a naming and a layout of weights. Importing one imports no torch."""

    source: str
    """Name of the family, and of its published weights for ``--pretrained``."""

    title: str
    """What the family's models are, for messages: "a model of timm"."""

    prefix: str
    """What a name of the family begins with, such as "timm:"; "" for names without prefix."""

    usage: str
    """How its names are written, with prefix, for people."""

    package: str
    """Module that its models come from; "" where that is always installed."""

    install: str
    """Command that installs the package."""

    def names(self) -> list[str]:
        """List the names of the family, without prefix; empty where the family is not installed or has no list."""

    def check_published(self, name: str) -> None:
        """Refuse a name under which no weights are published, as far as that is known without a network.

        Raises:
            ProtoRKDError: there are none.
        """

    def find_description(self, name: str) -> BackboneSource | None:
        """Find what a backbone is built from, where its name does not say it all; imports no torch.

        Raises:
            ProtoRKDError: there is none, or neither cache nor network has it.
        """

    def find_weights(self, name: str) -> BackboneSource:
        """Find the weights that are published under a name, downloaded at most once; imports torch only if it must.

        Raises:
            ProtoRKDError: there are none, or neither cache nor network has them; the message says how to get them.
        """

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,
        source: BackboneSource | None = None,
    ) -> BuiltBackbone:
        """Build a backbone without weights.

        Args:
            name: Name without prefix.
            image_size: Side of its square input in pixels; 0 is the model's own.
            pooling: One of `POOLINGS`.
            architecture: As a `BuiltBackbone` had it, for which nothing is looked up; None looks the name up.
            source: Files that were found under the name; None finds what it needs.

        Raises:
            ProtoRKDError: there is no such backbone, or it does not take such images or such pooling.
        """

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Convert tensors of the family's layout to the network's own names and shapes, without the classifier."""

    def published_tensors(
        self, name: str, network: "nn.Module", source: BackboneSource, *, image_size: int
    ) -> "dict[str, Tensor]":
        """Read published weights, under the network's own names and with its shapes.

        Raises:
            ProtoRKDError: they do not fit.
        """


def is_installed(family: BackboneFamily) -> bool:
    """Tell whether the package that a family's models come from is installed."""
    if not family.package:
        return True
    if family.package in sys.modules:
        return sys.modules[family.package] is not None
    return importlib.util.find_spec(family.package) is not None
