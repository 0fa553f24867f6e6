"""Read files of weights from other projects without running code, and recognise their format by their keys."""

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import IMAGENET_MEAN, IMAGENET_STD
from stages.components.inputs.lfs_pointer import check_fetched

# DINO's own evaluation takes its teacher; an average of weights is taken where there is nothing else.
_CONTAINERS = (
    *("classy_state_dict", "base_model", "model", "trunk", "state_dict", "model_state_dict", "teacher", "student"),
    *("state_dict_ema", "model_ema"),
)
_COMPILED = re.compile(r"(^|\.)_orig_mod\.")  # torch.compile puts it before the names inside what it compiles
# Names in torchvision's published files that its own loaders correct: layers of densenet and of vit.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


@dataclass(frozen=True)
class CheckpointFormat:
    """A format of weights: whose it is, and where the backbone is in it.

    Args:
        name: Usual name of the format.
        prefix: Beginning of the backbone's keys; all others belong to something else.
        mark: Beginning of some key in this format alone; "" if the prefix is enough.
        dropped: Beginnings of the heads' keys, after the prefix.
        mean: Mean of each RGB channel, subtracted from the images in training; None where the format does not say, and
            the backbone's own is taken.
        std: Standard deviation of each RGB channel, by which they are divided; None likewise.
    """

    name: str
    prefix: str
    mark: str = ""
    dropped: tuple[str, ...] = ()
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def fits(self, keys: list[str]) -> bool:
        """Return whether keys are of this format."""
        return any(key.startswith(self.mark or self.prefix) for key in keys)

    def strip(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the backbone's tensors, under torchvision's current names."""
        dropped = tuple(self.prefix + head for head in self.dropped)
        return {
            _rename(key.removeprefix(self.prefix)): value
            for key, value in tensors.items()
            if key.startswith(self.prefix) and not key.startswith(dropped)
        }


_SWAV_STD = (0.228, 0.224, 0.225)  # sic: SwAV's own training code divides red by 0.228

OPEN_CLIP = "OpenCLIP"
PROTORKD = "ProtoRKD student"
BARE = CheckpointFormat("the backbone's own", "")
"""Names without a prefix of another project: the layout of the backbone's own family."""

# The first that fits is taken, so longer prefixes come before shorter ones that they begin with.
FORMATS = (
    *(
        CheckpointFormat(name, prefix, mark, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        for name, prefix, mark in (
            ("MoCo v1 or v2", "module.encoder_q.", ""),
            ("MoCo v3", "module.base_encoder.", ""),
            ("SimCLR of SEED", "module.module.module.", ""),
            ("SEED student", "module.student.", ""),
            ("SimCLR of VISSL", "_feature_blocks.", ""),
            ("DINO", "module.backbone.", ""),
            ("DINO", "backbone.", "head.last_layer."),
        )
    ),
    CheckpointFormat(PROTORKD, "backbone."),
    *(CheckpointFormat("Lightning module", prefix) for prefix in ("model.backbone.", "module.model.", "model.")),
    CheckpointFormat(OPEN_CLIP, "module.visual."),
    CheckpointFormat(OPEN_CLIP, "visual."),
    *(
        CheckpointFormat(
            "SwAV or DeepCluster-v2", "module.", mark, ("projection_head.", "prototypes"), IMAGENET_MEAN, _SWAV_STD
        )
        for mark in ("module.projection_head.", "module.prototypes")
    ),
    CheckpointFormat("DataParallel", "module."),
)


def recognise(tensors: Mapping[str, Tensor]) -> CheckpointFormat:
    """Return the format of a file; keys without a known beginning are taken for the backbone's own."""
    keys = list(tensors)
    return next((one for one in FORMATS if one.fits(keys)), BARE)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or a file of ``torch.save``, which may hold it among other things.

    Raises:
        ProtoRKDError: If there is no such file, it is damaged, holds no tensors by name, or needs code to be run.
    """
    if not path.is_file():
        raise ProtoRKDError(f"--init-from must be a file of weights; got {path}, which is no file. Mend the path.")
    check_fetched(path, flag="--init-from")
    try:
        if path.suffix == ".safetensors":
            return _plainly_named(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(_harmless_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ProtoRKDError(
            f"{path} must hold tensors and plain values alone; got {_describe_code(path, error)}, and nothing of it "
            "was run. Where you trust the file, load it yourself and torch.save its state dict alone."
        ) from error
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ProtoRKDError(f"{path} must be a whole file of weights; got {error}. Fetch it again.") from error
    tensors = _find_tensors(checkpoint)
    if not tensors:
        keys = ", ".join(str(key) for key in checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint)
        raise ProtoRKDError(
            f"{path} must hold tensors by name, bare or under one of {', '.join(_CONTAINERS)}; got {keys}."
        )
    return tensors


def read_shards(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Read weights that lie in one file or in several, as `read_tensors` reads each.

    Raises:
        ProtoRKDError: as `read_tensors`.
    """
    return {key: value for path in paths for key, value in read_tensors(path).items()}


def _find_tensors(checkpoint: object) -> dict[str, Tensor]:
    if not isinstance(checkpoint, Mapping):
        return {}
    for name in _CONTAINERS:
        if found := _find_tensors(checkpoint.get(name)):
            return found
    return _plainly_named({str(key): value for key, value in checkpoint.items() if isinstance(value, Tensor)})


def _plainly_named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_COMPILED.sub(r"\1", key): value for key, value in tensors.items()}


def _harmless_globals() -> list[Any]:
    """List types beside tensors that training scripts save: their options, and NumPy's scalars."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
        *((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    ]


def _describe_code(path: Path, error: pickle.UnpicklingError) -> str:
    """Name the calls that the file asks for; torch's own message is not shown, because it says how to allow them."""
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
    ):  # the format before 2020, which torch cannot list
        names = re.findall(r"GLOBAL (\S+)", str(error))
    return f"calls of {', '.join(names)}" if names else "other things"


def _rename(key: str) -> str:
    for old, new in _OLD_NAMES:
        key = old.sub(new, key)
    return key
