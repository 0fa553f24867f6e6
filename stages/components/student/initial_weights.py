"""Load a backbone's initial weights: from a file of almost any origin, or as torchvision and OpenCLIP publish them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import IMAGENET_MEAN, IMAGENET_STD, StudentConfig, find_config_beside
from pipeline.log import log
from stages.components.student.backbones import torchvision_backbones
from stages.components.student.foreign_checkpoints import OPEN_CLIP, PROTORKD, TORCHVISION, read_tensors, recognise
from stages.components.student.open_clip_towers import (
    PREFIX,
    check_tag,
    download_tower,
    find_tower,
    tower_normalization,
)

_HEADS = {"fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"}
_POSITIONS = "encoder.pos_embedding"
_HALF = (0.5, 0.5, 0.5)


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
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def load_initial_weights(student_backbone: nn.Module, path: Path, *, backbone_name: str) -> InitialWeights:
    """Load the weights in a file into a backbone, all of them or none; the file's heads are left out.

    Formats are recognised by their keys: MoCo v1 to v3, SimCLR of SEED and of VISSL, SwAV and DeepCluster-v2, DINO's
    teacher and student, students of SEED and of this project, OpenCLIP's image towers, torchvision's own, also from
    Lightning, DataParallel or torch.compile. A vision transformer of torchvision takes
    weights of another image size, with its position embeddings resized. Weights in torchvision's layout are taken for
    its published ones, which for googlenet and inception_v3 came from TensorFlow with images from -1 to 1.

    Args:
        student_backbone: Backbone, filled in place.
        path: File of safetensors or of ``torch.save``.
        backbone_name: Name of the backbone, from ``--student``.

    Raises:
        ProtoRKDError: If the file cannot be read, its format is unknown, or a tensor of the backbone is missing in it,
            has another shape, or is not the backbone's.
    """
    tensors = read_tensors(path)
    file_format = recognise(tensors)
    weights = file_format.strip(tensors)
    if file_format is TORCHVISION and not weights.keys() & student_backbone.state_dict().keys():
        raise ProtoRKDError(
            f"{path} must be of a known format, with weights of a {backbone_name}; got {len(weights)} tensors: "
            f"{_few(list(weights))}. Pass the --student that they were made for."
        )
    num_tensors = _fill(student_backbone, weights, backbone_name=backbone_name, origin=f"{path} ({file_format.name})")
    mean, std = file_format.mean, file_format.std
    if file_format is TORCHVISION and hasattr(student_backbone, "transform_input"):
        mean = std = _HALF
    elif file_format.name == OPEN_CLIP and (tower := find_tower(backbone_name)):
        mean, std = tower_normalization(tower)
    elif file_format.name == PROTORKD and (described := find_config_beside(path)):
        preprocessing = StudentConfig.read(described.parent).preprocessing
        mean, std = preprocessing.mean, preprocessing.std
    return InitialWeights(file_format.name, num_tensors, mean, std)


def load_pretrained(student_backbone: nn.Module, source: str, *, backbone_name: str, image_size: int) -> InitialWeights:
    """Load published weights into a backbone; they are downloaded once.

    Args:
        student_backbone: Backbone, filled in place.
        source: ``torchvision``, for its default weights, or ``open-clip:TAG``.
        backbone_name: Name of the backbone, from ``--student``.
        image_size: Side of the student's square images in pixels.

    Raises:
        ProtoRKDError: If the source has none for this backbone, or they cannot be downloaded or do not fit.
    """
    tower = check_pretrained(source, backbone_name=backbone_name)
    if tower is None:
        return _load_from_torchvision(student_backbone, backbone_name)
    tag = source.removeprefix(PREFIX)
    weights = download_tower(tower, tag, image_size=image_size).state_dict()
    num_tensors = _fill(student_backbone, weights, backbone_name=backbone_name, origin=f"--pretrained {source}")
    return InitialWeights(source, num_tensors, *tower_normalization(tower, tag))


def check_pretrained(source: str, *, backbone_name: str) -> str | None:
    """Return the tower that published weights are of, by their names alone; None for torchvision's.

    Args:
        source: ``torchvision``, or ``open-clip:TAG``.
        backbone_name: Name of the backbone, from ``--student``.

    Raises:
        ProtoRKDError: If there is no such source, or it has none for this backbone.
    """
    if source == "torchvision":
        if backbone_name not in torchvision_backbones():
            raise ProtoRKDError(
                f"--pretrained torchvision must go with a model of torchvision; got --student {backbone_name}. "
                "Pass --init-from FILE instead."
            )
        return None
    tag = source.removeprefix(PREFIX)
    if tag == source:
        raise ProtoRKDError(
            f"--pretrained must be torchvision or {PREFIX}TAG; got {source!r}. Pass --init-from FILE for a file."
        )
    tower = None if backbone_name in torchvision_backbones() else find_tower(backbone_name)
    if tower is None:
        raise ProtoRKDError(
            f"--pretrained {source} must go with an image tower of OpenCLIP; got --student {backbone_name}. "
            f"Pass --student {PREFIX}NAME."
        )
    check_tag(tower, tag)
    return tower


def _load_from_torchvision(backbone: nn.Module, name: str) -> InitialWeights:
    published = torchvision.models.get_model_weights(name).DEFAULT
    try:
        weights = published.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or other bytes than were published
        raise ProtoRKDError(
            f"--pretrained torchvision must be downloadable; got {error} for {published.url}. "
            "Pass --init-from FILE instead, with the file fetched by other means."
        ) from error
    weights = TORCHVISION.strip(weights)
    num_tensors = _fill(backbone, weights, backbone_name=name, origin=f"torchvision's {published}")
    if hasattr(backbone, "transform_input"):
        # With these weights torchvision converts ImageNet's normalisation to TensorFlow's inside the network; it is the
        # same to normalise the images as TensorFlow does.
        return InitialWeights(str(published), num_tensors, _HALF, _HALF)
    recipe = published.transforms()
    return InitialWeights(str(published), num_tensors, tuple(recipe.mean), tuple(recipe.std))


@torch.no_grad()
def _fill(backbone: nn.Module, weights: Mapping[str, Tensor], *, backbone_name: str, origin: str) -> int:
    own = backbone.state_dict()
    weights = _resize_positions(backbone, {key: value for key, value in weights.items() if not _is_head(backbone, key)})
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
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
            "Pass the --student, and for transformers the --image-size, that they were made for."
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


def _resize_positions(backbone: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(backbone, VisionTransformer) or _POSITIONS not in weights:
        return weights
    old, new = weights[_POSITIONS].shape, backbone.encoder.pos_embedding.shape
    is_grid = round((old[1] - 1) ** 0.5) ** 2 == old[1] - 1
    if old == new or old[::2] != new[::2] or not is_grid:
        return weights
    log.info("position embeddings are resized from %d patches to %d", old[1] - 1, new[1] - 1)
    return dict(interpolate_embeddings(backbone.image_size, backbone.patch_size, weights))


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")
