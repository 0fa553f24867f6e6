"""Networks that Python code hands over: the store knows them by their bytes again, and never holds their code."""

import copy
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from data_schemas.later_fields import as_plain
from pipeline.fingerprint import canonical_json
from stages.components.backbones.family import BackboneSource, BuiltBackbone

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "module:"
_INTERPOLATIONS = ("bicubic", "bilinear")
_RESIZES = ("shortest", "squash")
_SUFFIX_DIGITS = 16  # of the digest that ends a name, in hexadecimal

_given: "dict[str, Backbone]" = {}  # by name without prefix, as long as this process lives


class Backbone:
    """A network of one's own as a backbone, in this process, wherever the name of one is taken.

    It is known by the qualified name of its class, its preprocessing, and the names and bytes of its state dict as it
    is now: a copy is taken, so later changes of the network change nothing here. What ``forward`` computes from these
    is not looked at; a class whose ``forward`` has changed needs another name.

    Args:
        network: Network in any mode, used in eval mode.
        preprocessing: How an image becomes its input.

    Raises:
        ProtoRKDError: the network does not map such images to features, or holds more than tensors.

    Shapes:
        network: (batch, 3, image_size, image_size), float32, to (batch, feature_dim), float.

    Example:
        >>> import torch, protorkd
        >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> protorkd.Backbone(network, protorkd.Preprocessing(image_size=64)).name[:40]
        'module:torch.nn.modules.container.Sequen'
    """

    def __init__(self, network: "nn.Module", preprocessing: Preprocessing) -> None:
        _check_preprocessing(preprocessing)
        self.preprocessing = preprocessing
        self.network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        kind = f"{type(network).__module__}.{type(network).__qualname__}"
        _check_features(self.network, preprocessing.image_size, kind)
        self.name = f"{PREFIX}{kind}@{_digest(self.network, preprocessing, kind)[:_SUFFIX_DIGITS]}"
        _given[self.name.removeprefix(PREFIX)] = self

    def __fspath__(self) -> str:
        """Return the name, which stands for it where an option takes text."""
        return self.name

    def __repr__(self) -> str:
        return f"Backbone({self.name})"


class ModuleFamily:
    """Backbones that Python code has handed over, by the names that `Backbone` gives them."""

    source, title, prefix, usage = "module", "a network given in Python", PREFIX, f"{PREFIX}CLASS@DIGEST"
    package = install = ""

    def __init__(self) -> None:
        self._folders: dict[str, tempfile.TemporaryDirectory[str]] = {}

    def names(self) -> list[str]:
        """List those of this process."""
        return list(_given)

    def check_published(self, name: str) -> None:
        """Refuse a name that this process does not know."""
        _find(name)

    def find_description(self, name: str) -> BackboneSource | None:  # noqa: ARG002 - as in `BackboneFamily`
        """Return None: the code says what is built."""
        return None

    def find_weights(self, name: str) -> BackboneSource:
        """Write the network's weights to a file that lives as long as this process.

        Raises:
            ProtoRKDError: this process does not know the name, or there is no room.
        """
        from stages.components.compute.tensor_file import write_tensors

        known = _find(name)
        if name not in self._folders:
            folder = tempfile.TemporaryDirectory(prefix="protorkd-backbone-")
            write_tensors(_tensors(known.network), Path(folder.name) / "weights.safetensors")
            self._folders[name] = folder
        return BackboneSource((Path(self._folders[name].name) / "weights.safetensors",), source=known.name)

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,  # noqa: ARG002
        source: BackboneSource | None = None,  # noqa: ARG002
    ) -> BuiltBackbone:
        """Copy the network that was handed over.

        Raises:
            ProtoRKDError: this process does not know the name, or another input or pooling is asked for.
        """
        known = _find(name)
        if image_size not in (0, known.preprocessing.image_size):
            raise ProtoRKDError(
                f"--image-size must be {known.preprocessing.image_size} for {known.name}, as its preprocessing says; "
                f"got {image_size}. Leave it out, or give the network with another preprocessing."
            )
        if pooling != "native":
            raise ProtoRKDError(f"--pooling must be native for {known.name}, whose code pools; got {pooling}.")
        return BuiltBackbone(copy.deepcopy(known.network), known.preprocessing)

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":  # noqa: ARG002
        """Return the tensors as they are."""
        return dict(tensors)

    def published_tensors(
        self,
        name: str,  # noqa: ARG002 - as in `BackboneFamily`
        network: "nn.Module",  # noqa: ARG002
        source: BackboneSource,
        *,
        image_size: int,  # noqa: ARG002
    ) -> "dict[str, Tensor]":
        """Read the weights that `find_weights` wrote."""
        import safetensors.torch

        return dict(safetensors.torch.load_file(source.weights[0]))


def _find(name: str) -> Backbone:
    known = _given.get(name)
    if known is None:
        raise ProtoRKDError(
            f"{PREFIX}{name} must be given in this process; it is a network from Python, whose code the store does not "
            "hold. In Python, make it with the weights that it had, hand it over by protorkd.Backbone(network, "
            "protorkd.Preprocessing(...)), and call the stage there."
        )
    return known


def _digest(network: "nn.Module", preprocessing: Preprocessing, kind: str) -> str:
    """Hash the class, the preprocessing, and each tensor's name, type, shape and bytes."""
    import torch

    digest = hashlib.sha256(canonical_json([kind, as_plain(preprocessing)]))
    for name, tensor in sorted(_tensors(network).items()):
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(network: "nn.Module") -> "dict[str, Tensor]":
    import torch

    state = network.state_dict()
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ProtoRKDError(f"A network's state dict must hold tensors alone; got {others[0]}, which is none.")
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    rules = {
        "image_size must be 1 or more": preprocessing.image_size >= 1,
        "mean and std must have three numbers": len(preprocessing.mean) == len(preprocessing.std) == 3,
        "std must be above 0": min(preprocessing.std) > 0,
        f"interpolation must be one of {', '.join(_INTERPOLATIONS)}": preprocessing.interpolation in _INTERPOLATIONS,
        "resize_size must be 0, or image_size or more": not 0 < preprocessing.resize_size < preprocessing.image_size,
        f"resize must be one of {', '.join(_RESIZES)}": preprocessing.resize in _RESIZES,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ProtoRKDError(f"Preprocessing's {rule}; got {preprocessing}.")


def _check_features(network: "nn.Module", image_size: int, kind: str) -> None:
    """Refuse a network that does not map two images to two rows."""
    import torch

    wanted = f"{kind} must map images, (2, 3, {image_size}, {image_size}), float32, to features, (2, width)"
    try:
        with torch.no_grad():
            features = network(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:  # whatever its code raises
        raise ProtoRKDError(f"{wanted}; it raised {type(error).__name__}: {error}.") from error
    if not isinstance(features, torch.Tensor):
        raise ProtoRKDError(f"{wanted}; got {type(features).__name__}. Wrap it in a module that returns the tensor.")
    if features.ndim != 2 or len(features) != 2 or not features.is_floating_point():
        raise ProtoRKDError(f"{wanted}; got {tuple(features.shape)}, {features.dtype}. Wrap it in a module that pools.")
