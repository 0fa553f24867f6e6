"""Load a backbone's weights: from a file of almost any origin, or as its family publishes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import StudentConfig, find_config_beside
from stages.components.backbones.family import BackboneFamily, BackboneSource, BuiltBackbone
from stages.components.backbones.foreign_checkpoints import (
    BARE,
    PROTORKD,
    CheckpointFormat,
    read_tensors,
    recognise,
)
from stages.components.backbones.registry import find_family

_HEADS = {"fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"}
_COUNTS = "num_batches_tracked"


@dataclass(frozen=True)
class InitialWeights:
    """The origin of a backbone's initial weights.

    Args:
        format: Name of the weights' format or source.
        num_tensors: Number of the backbone's tensors that they filled.
        mean: Mean of each RGB channel, to be subtracted from the student's images.
        std: Standard deviation of each RGB channel, by which they are to be divided.
    """

    format: str
    num_tensors: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_initial_weights(built: BuiltBackbone, path: Path, *, backbone_name: str) -> InitialWeights:
    """Load the weights in a file into a backbone, all of them or none; the file's heads are left out.

    Formats are recognised by their keys: MoCo v1 to v3, SimCLR of SEED and of VISSL, SwAV and DeepCluster-v2, DINO's
    teacher and student, students of SEED and of this project, OpenCLIP's image towers, and the layout of the backbone's
    own family, torchvision, timm or transformers, also from Lightning, DataParallel or torch.compile. Vision
    transformers of torchvision and timm take weights of another image size, with their position embeddings resized.
    Weights in the family's layout are taken for its published ones, and images are normalised as for those.

    Args:
        built: Backbone, filled in place.
        path: File of safetensors or of ``torch.save``.
        backbone_name: Name of the backbone, from ``--student``.

    Raises:
        ProtoRKDError: If the file cannot be read, its format is unknown, or a tensor of the backbone is missing in it,
            has another shape, or is not the backbone's.
    """
    family, short = find_family(backbone_name)
    label, file_format, weights = _recognise(family, short, built.network, read_tensors(path))
    if file_format is BARE and not weights.keys() & built.network.state_dict().keys():
        raise ProtoRKDError(
            f"{path} must be of a known format, with weights of a {backbone_name}; got {len(weights)} tensors: "
            f"{_few(list(weights))}. Pass the --student that they were made for."
        )
    num_tensors = _fill(built.network, weights, backbone_name=backbone_name, origin=f"{path} ({label})")
    mean, std = file_format.mean or built.preprocessing.mean, file_format.std or built.preprocessing.std
    if file_format.name == PROTORKD and (described := find_config_beside(path)):
        preprocessing = StudentConfig.read(described.parent).preprocessing
        mean, std = preprocessing.mean, preprocessing.std
    return InitialWeights(label, num_tensors, mean, std)


def load_published_weights(built: BuiltBackbone, source: BackboneSource, *, backbone_name: str) -> InitialWeights:
    """Load weights that a backbone's family publishes, all of them or none; the classifier is left out.

    Args:
        built: Backbone, filled in place.
        source: Files that were found under the name.
        backbone_name: Full name of the weights, with a tag where their family has tags.

    Raises:
        ProtoRKDError: If they do not fit.
    """
    family, short = find_family(backbone_name)
    size = built.preprocessing.image_size
    weights = family.published_tensors(short, built.network, source, image_size=size)
    num_tensors = _fill(built.network, weights, backbone_name=backbone_name, origin=source.source)
    return InitialWeights(source.source, num_tensors, built.preprocessing.mean, built.preprocessing.std)


def _recognise(
    family: BackboneFamily, short: str, network: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[str, CheckpointFormat, dict[str, Tensor]]:
    """Return the format of a file, with its name, and the backbone's tensors in it.

    The family's own layout comes first, for its names may begin as another format's do.
    """
    own = family.own_tensors(short, network, BARE.strip(tensors))
    if {key for key in network.state_dict() if not key.endswith(_COUNTS)} <= own.keys():
        return family.source, BARE, own
    file_format = recognise(tensors)
    if file_format is BARE:
        return family.source, BARE, own
    return file_format.name, file_format, family.own_tensors(short, network, file_format.strip(tensors))


@torch.no_grad()
def _fill(backbone: nn.Module, weights: Mapping[str, Tensor], *, backbone_name: str, origin: str) -> int:
    own = backbone.state_dict()
    weights = {key: value for key, value in weights.items() if not _is_head(backbone, key)}
    missing = [key for key in own if key not in weights and not key.endswith(_COUNTS)]
    unexpected = [key for key in weights if key not in own]
    shapes = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(wrong.values()):
        counts = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in wrong.items() if keys)
        raise ProtoRKDError(
            f"{origin} must hold all weights of the {backbone_name} backbone and no others; got {counts}. "
            "Pass the --student, and for transformers the --image-size and --pooling, that they were made for."
        )
    for key, tensor in weights.items():
        own[key].copy_(tensor)
    return len(weights)


def _is_head(backbone: nn.Module, key: str) -> bool:
    """Return whether a key belongs to the classifier that the backbone has lost, or to its replacement."""
    path = key.split(".")[:-1]
    if not path or path[0] not in _HEADS:
        return False
    module: object = backbone
    for name in path:
        module = getattr(module, name, backbone)
        if module is None or isinstance(module, nn.Identity):
            return True
    return False


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
