"""Backbones of torchvision and wide ResNets, by their plain names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import Preprocessing
from stages.components.backbones.family import BuiltBackbone, PublishedWeights
from stages.components.student.backbones import build_backbone, list_backbones


class TorchvisionFamily:
    """torchvision's classification models and wide ResNets, without their classifiers."""

    prefix = ""

    def names(self) -> list[str]:
        """List the models."""
        return list_backbones()

    def find_weights(self, name: str) -> PublishedWeights:
        """Find torchvision's default weights, in torch's cache or by a download."""
        published = torchvision.models.get_model_weights(name).DEFAULT
        path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(published.url).path).name)
        try:
            if not path.is_file():
                published.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise ProtoRKDError(
                f"{name} must have its weights in {path.parent} or downloadable; got {error}. Fetch {published.url} "
                "there, or pass --init-from FILE."
            ) from error
        return PublishedWeights((path,), str(published))

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,  # noqa: ARG002 - as in `BackboneFamily`
    ) -> BuiltBackbone:
        """Build a model without its classifier; images are prepared as for a student of ours."""
        if pooling != "native":
            raise ProtoRKDError(f"--pooling must be native for a backbone of torchvision; got {pooling}.")
        size = image_size or 224
        network, _ = build_backbone(name, image_size=size)
        return BuiltBackbone(network.eval(), Preprocessing(image_size=size))

    def backbone_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier."""
        wanted = self.build(name, image_size=0, pooling="native").network.state_dict().keys()
        return {key: value for key, value in tensors.items() if key in wanted}
