"""Backbones of torchvision and wide ResNets, by their plain names."""

import ast
import functools
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.family import BackboneSource, BuiltBackbone

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDE_RESNETS = {"resnet50w2": 2, "resnet50w4": 4, "resnet50w5": 5}
"""Widening factor of each network over ResNet-50."""

_HALF = (0.5, 0.5, 0.5)
_PUBLISHED_WITH_HALF = ("efficientnet_v2_l", "googlenet", "inception_v3")
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_USUAL_SIZE = 224


class TorchvisionFamily:
    """torchvision's classification models and wide ResNets, without their classifiers."""

    source = "torchvision"
    title = "a model of torchvision"
    prefix = ""
    usage = "NAME"
    package = ""
    install = ""

    def names(self) -> list[str]:
        """List the models, sorted, as torchvision's source registers them."""
        return sorted([*_registered(), *WIDE_RESNETS])

    def check_published(self, name: str) -> None:
        """Refuse the wide ResNets, of which torchvision has no weights."""
        if name not in _registered():
            raise ProtoRKDError(
                f"--pretrained torchvision must go with a model of torchvision; got --student {name}. "
                "Pass --init-from FILE instead."
            )

    def find_description(self, name: str) -> None:
        """Find nothing: the name says all."""

    def find_weights(self, name: str) -> BackboneSource:
        """Find torchvision's default weights, in torch's cache or by a download."""
        self.check_published(name)
        label, url = _default_weights(name)
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
        path = Path(home, "hub", "checkpoints", Path(urlparse(url).path).name).expanduser()
        if not path.is_file():
            _download(url, path)
        return BackboneSource((path,), source=f"{label} of torchvision")

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,  # noqa: ARG002 - as in `BackboneFamily`
        source: BackboneSource | None = None,  # noqa: ARG002
    ) -> BuiltBackbone:
        """Build a model without its classifier; images are prepared as for a student of ours."""
        from stages.components.backbones.torchvision_models import build_torchvision_model
        from stages.components.backbones.wide_resnet import build_wide_resnet

        if pooling != "native":
            raise ProtoRKDError(f"--pooling must be native for a backbone of torchvision; got {pooling}.")
        size = image_size or _USUAL_SIZE
        preprocessing = Preprocessing(image_size=size)
        if name in WIDE_RESNETS:
            return BuiltBackbone(build_wide_resnet(widening=WIDE_RESNETS[name]).eval(), preprocessing)
        network = build_torchvision_model(name, image_size=size)
        if name in _PUBLISHED_WITH_HALF:
            # Of images from -1 to 1. In the last two torchvision converts ImageNet's normalisation to that inside the
            # network; it is the same to normalise the images so.
            preprocessing = Preprocessing(image_size=size, mean=_HALF, std=_HALF)
        return BuiltBackbone(network.eval(), preprocessing)

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":  # noqa: ARG002
        """Take the tensors as they are, with the positions of a vision transformer resized."""
        from stages.components.backbones.torchvision_models import resize_positions

        return resize_positions(network, dict(tensors))

    def published_tensors(
        self,
        name: str,
        network: "nn.Module",
        source: BackboneSource,
        *,
        image_size: int,  # noqa: ARG002 - the network knows
    ) -> "dict[str, Tensor]":
        """Read the weights under torchvision's current names."""
        from stages.components.backbones.foreign_checkpoints import BARE, read_tensors

        return self.own_tensors(name, network, BARE.strip(read_tensors(source.weights[0])))


@functools.cache
def _sources() -> dict[str, Path]:
    """Return torchvision's file that registers each model: importing torchvision takes longer than a user waits."""
    found = importlib.util.find_spec("torchvision")
    places = (found.submodule_search_locations or []) if found else []
    files = [path for place in places for path in sorted((Path(place) / "models").glob("*.py"))]
    return {name: path for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8"))}


def _registered() -> list[str]:
    return list(_sources())


def _default_weights(name: str) -> tuple[str, str]:
    """Return name and URL of a model's default weights, as torchvision's source declares them."""
    tree = ast.parse(_sources()[name].read_text(encoding="utf-8"))
    function = next(each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name)
    [kind] = set(re.findall(r"\w+_Weights", ast.unparse(function.args)))
    declared = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == kind)
    members = {ast.unparse(each.targets[0]): each.value for each in declared.body if isinstance(each, ast.Assign)}
    default = ast.unparse(members["DEFAULT"])
    weights = members[default]
    assert isinstance(weights, ast.Call)
    return f"{kind}.{default}", next(ast.literal_eval(each.value) for each in weights.keywords if each.arg == "url")


def _download(url: str, path: Path) -> None:
    from torch.hub import download_url_to_file

    [begins] = re.findall(r"-([a-f0-9]*)\.", path.name)[:1] or [None]  # of the file's SHA-256, as torchvision names it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), begins, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no space, or other bytes than were published
        raise ProtoRKDError(
            f"--pretrained torchvision must be downloadable; got {error} for {url}. Put the file into {path.parent} by "
            "other means, or pass --init-from FILE instead."
        ) from error
