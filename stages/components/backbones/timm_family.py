"""Backbones of timm, by `timm:NAME[.TAG]`; timm is an optional dependency, imported only when needed."""

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import Preprocessing
from stages.components.backbones.family import BuiltBackbone, PublishedWeights

INSTALL = "pip install 'protorkd[timm]'"


class TimmFamily:
    """All image models of timm, without their classifiers."""

    prefix = "timm:"

    def names(self) -> list[str]:
        """List timm's models, with the tags of their published weights."""
        listed: list[str] = _timm().list_models(pretrained=True)
        return listed

    def find_weights(self, name: str) -> PublishedWeights:
        """Find the weights that timm publishes on the hub under a name and tag."""
        from huggingface_hub import hf_hub_download

        published = _timm().get_pretrained_cfg(name)
        if published is None or not published.hf_hub_id:
            raise ProtoRKDError(f"timm:{name} must have published weights; it has none. Pass --init-from FILE.")
        try:
            path = Path(hf_hub_download(published.hf_hub_id, "model.safetensors"))
        except Exception as error:  # the hub's library raises many kinds
            raise ProtoRKDError(
                f"timm:{name} must be in the hub's cache or downloadable; got {error}. Fetch {published.hf_hub_id} "
                "where there is a network, or pass --init-from FILE."
            ) from error
        return PublishedWeights((path,), f"{published.hf_hub_id}@{path.parent.name}")

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,  # noqa: ARG002 - as in `BackboneFamily`
    ) -> BuiltBackbone:
        """Build a model of timm with its pooling and without its classifier."""
        timm = _timm()
        if pooling != "native":
            raise ProtoRKDError(f"--pooling must be native for a backbone of timm; got {pooling}.")
        try:
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        except RuntimeError as error:
            raise ProtoRKDError(f"timm:NAME must name a model of timm; got {name!r} ({error}).") from error
        config = timm.data.resolve_model_data_config(network)
        size = image_size or config["input_size"][-1]
        preprocessing = Preprocessing(
            image_size=size,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            resize_size=math.floor(size / config["crop_pct"]),
            resize="squash" if config["crop_mode"] == "squash" else "shortest",
        )
        return BuiltBackbone(network.eval(), preprocessing)

    def backbone_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier."""
        classifier = _timm().get_pretrained_cfg_value(name, "classifier") or "classifier"
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        return {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{head}." for head in heads))}


def _timm() -> Any:  # a module without types
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ProtoRKDError(f"timm:NAME must have timm installed; got {error}. Run: {INSTALL}") from error
