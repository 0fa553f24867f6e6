"""Backbones of transformers, by `hf:OWNER/NAME[@REVISION]` or `hf:FOLDER`: vision models, towers of CLIP and SigLIP."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.family import BackboneSource, BuiltBackbone
from stages.components.backbones.hub_files import find_model, find_snapshot, split_revision, weight_files

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIG_NAME = "config.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_DESCRIPTION = (_CONFIG_NAME, *(f"{file}?" for file in _PROCESSORS))

_UNUSED = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")


@dataclass(frozen=True)
class Kind:
    """A kind of vision model, by the type in its configuration.

    Args:
        model: Class in transformers.
        output: Output that is its own pooling.
        num_prefix: Number of tokens before the patches, without registers; None where its outputs are no tokens.
        has_cls: Whether the first of them is a class token.
        adds_pooler: Whether the class has an option ``add_pooling_layer``: a layer that not all files have.
    """

    model: str
    output: str = "pooler_output"
    num_prefix: int | None = 1
    has_cls: bool = True
    adds_pooler: bool = False


KINDS = {
    "beit": Kind("BeitModel", adds_pooler=True),
    "clip_vision_model": Kind("CLIPVisionModelWithProjection", "image_embeds"),
    "convnext": Kind("ConvNextModel", num_prefix=None),
    "convnextv2": Kind("ConvNextV2Model", num_prefix=None),
    "deit": Kind("DeiTModel", num_prefix=2, adds_pooler=True),
    "dinov2": Kind("Dinov2Model"),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel"),
    "dinov3_convnext": Kind("DINOv3ConvNextModel", num_prefix=None),
    "dinov3_vit": Kind("DINOv3ViTModel"),
    "resnet": Kind("ResNetModel", num_prefix=None),
    "siglip_vision_model": Kind("SiglipVisionModel", num_prefix=0, has_cls=False),
    "swin": Kind("SwinModel", num_prefix=0, has_cls=False),
    "swinv2": Kind("Swinv2Model", num_prefix=0, has_cls=False),
    "vit": Kind("ViTModel", adds_pooler=True),
}
"""Kinds that take square images of one size; SigLIP 2 of fixed resolution is of SigLIP's kind."""

_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


class HFFamily:
    """Vision models of transformers that take square images of one size; code that comes with a model never runs."""

    source = "hf"
    title = "a model of the hub"
    prefix = "hf:"
    usage = "hf:OWNER/NAME[@REVISION] or hf:FOLDER, of these kinds"
    package = ""
    install = ""

    def names(self) -> list[str]:
        """List nothing: the hub has the names."""
        return []

    def check_published(self, name: str) -> None:
        """Refuse nothing: only the hub knows, or the folder."""

    def find_description(self, name: str) -> BackboneSource:
        """Find configuration and preprocessing, in a folder or on the hub."""
        folder, source = self._folder(name, with_weights=False)
        return BackboneSource((), _description(folder, name), source=source)

    def find_weights(self, name: str) -> BackboneSource:
        """Find the weights, configuration and preprocessing, in a folder or on the hub."""
        folder, source = self._folder(name, with_weights=True)
        return BackboneSource(weight_files(folder, flag=f"hf:{name}"), _description(folder, name), source=source)

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,
        source: BackboneSource | None = None,
    ) -> BuiltBackbone:
        """Build a vision model, or the vision tower of a model of images and texts."""
        from stages.components.backbones.hf_models import VisionBackbone
        from stages.components.backbones.hf_preprocessing import preprocessing_of

        if architecture is not None:
            preprocessing = Preprocessing(image_size=image_size)
            config = dict(architecture)
        else:
            config_file, processor_file = (source or self.find_description(name)).description
            config = vision_architecture(read_json(config_file), config_file)
            preprocessing = preprocessing_of(read_json(processor_file), processor_file, image_size=image_size)
        network = VisionBackbone(config, pooling=pooling, image_size=preprocessing.image_size, name=f"hf:{name}")
        return BuiltBackbone(network.eval(), preprocessing, config)

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":  # noqa: ARG002
        """Take what transformers takes of a file, by whatever names its versions and its heads gave."""
        from stages.components.backbones.hf_models import VisionBackbone

        assert isinstance(network, VisionBackbone)
        return network.own_tensors(tensors)

    def published_tensors(
        self,
        name: str,
        network: "nn.Module",
        source: BackboneSource,
        *,
        image_size: int,  # noqa: ARG002 - the network knows
    ) -> "dict[str, Tensor]":
        """Read the weights, whole or in shards."""
        from stages.components.backbones.foreign_checkpoints import read_shards

        return self.own_tensors(name, network, read_shards(source.weights))

    def _folder(self, name: str, *, with_weights: bool) -> tuple[Path, str]:
        """Return the folder of a model, and what names it: its path, or its name on the hub with the commit."""
        path = Path(name)
        if path.is_dir():
            return path, str(path.resolve())
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise ProtoRKDError(f"hf: must be followed by OWNER/NAME or an existing folder; got hf:{name}.")
        repository, revision = split_revision(name)
        if with_weights:
            folder = find_model(repository, revision=revision, described=_DESCRIPTION, name=f"hf:{name}")
        else:
            folder = find_snapshot(
                repository,
                revision=revision,
                patterns=[_CONFIG_NAME, *_PROCESSORS],
                is_enough=lambda folder: (folder / _CONFIG_NAME).is_file(),
                name=f"hf:{name}",
            )
        return folder, f"{repository}@{folder.name}"


def vision_architecture(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration of a model's vision part.

    Args:
        config: Content of its ``config.json``.
        path: File that it was read from, for messages.

    Raises:
        ProtoRKDError: it is of no known kind, or takes images of several sizes.
    """
    kind = config.get("model_type")
    if kind in _TOWERS:
        vision = dict(config.get("vision_config") or {})
        vision["model_type"] = _TOWERS[kind]
        if "projection_dim" in config:
            vision["projection_dim"] = config["projection_dim"]
        return _without_versions(vision)
    if kind == "siglip2":
        raise ProtoRKDError(
            f"{path} must be of a model that takes squares of one size; got SigLIP 2 with NaFlex, whose images have "
            "several. Take one of fixed resolution, such as google/siglip2-base-patch16-224."
        )
    if kind not in KINDS:
        known = ", ".join(known_kinds())
        code = " Code that comes with a model is never run." if "auto_map" in config else ""
        raise ProtoRKDError(
            f"{path} must be of a vision model that is known here; got model_type {kind!r}. Known: {known}.{code} "
            "Many others are in timm: protorkd list students."
        )
    return _without_versions(config)


def known_kinds() -> list[str]:
    """List the types of models, in their configuration, that are known."""
    return sorted({*KINDS, *_TOWERS} - {*_TOWERS.values()})


def _without_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what changes nothing that is computed, such as the version of the library that wrote it."""
    return {key: value for key, value in config.items() if key not in _UNUSED}


def _description(folder: Path, name: str) -> tuple[Path, Path]:
    config = folder / _CONFIG_NAME
    processor = next((folder / file for file in _PROCESSORS if (folder / file).is_file()), None)
    if not config.is_file():
        raise ProtoRKDError(f"hf:{name} must have a {_CONFIG_NAME}; {folder} has none. Fetch the whole model.")
    if processor is None:
        raise ProtoRKDError(
            f"hf:{name} must say how its images are prepared, in {_PROCESSORS[0]}; {folder} has none. Fetch the whole "
            "model, or bring that file from the model that this one was trained from."
        )
    return config, processor
