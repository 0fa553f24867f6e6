"""Image towers of OpenCLIP as backbones, by `open-clip:NAME[:TAG]`; open_clip is imported only when needed."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.family import BackboneSource, BuiltBackbone

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "open-clip:"
INSTALL = "pip install 'protorkd[open-clip]'"

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_SMALLEST_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenCLIPFamily:
    """OpenCLIP's image towers, including their pooling and their projection to CLIP's space."""

    source = "open-clip"
    title = "an image tower of OpenCLIP"
    prefix = PREFIX
    usage = f"{PREFIX}NAME[:TAG]"
    package = "open_clip"
    install = INSTALL

    def names(self) -> list[str]:
        """List open_clip's models; none where it is not installed."""
        try:
            return list(_open_clip().list_models())
        except ProtoRKDError:
            return []

    def lists(self, name: str) -> bool:
        """Tell whether open_clip is installed and lists a name, perhaps with a tag behind it."""
        return name.partition(":")[0] in self.names()

    def check_published(self, name: str) -> None:
        """Refuse a tag under which open_clip publishes no weights that the tower can take."""
        tower, tag = _split(name)
        if not tag:
            known = ", ".join(_open_clip().list_pretrained_tags_by_model(tower)) or "none"
            raise ProtoRKDError(
                f"Published weights of {PREFIX}{tower} must be named by a tag, as in {PREFIX}{tower}:TAG; got none. "
                f"Known: {known}."
            )
        _check_tag(tower, tag)

    def find_description(self, name: str) -> None:
        """Find nothing: the name says all."""

    def find_weights(self, name: str) -> BackboneSource:
        """Find the weights that open_clip publishes under a tag, in its cache or by a download."""
        self.check_published(name)
        tower, tag = _split(name)
        open_clip = _open_clip()
        try:
            path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(tower, tag)))
        except Exception as error:  # of the HTTP client or the hub's client, of many types
            raise ProtoRKDError(
                f"--pretrained {PREFIX}{tag} must be downloadable; got {error}. Run the same command where there is a "
                "network, or pass --init-from FILE instead."
            ) from error
        commit = f"@{path.parent.name}" if path.parent.parent.name == "snapshots" else ""
        return BackboneSource((path,), source=f"{PREFIX}{tower}:{tag}{commit}")

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,  # noqa: ARG002 - as in `BackboneFamily`
        source: BackboneSource | None = None,  # noqa: ARG002
    ) -> BuiltBackbone:
        """Build a tower without its text tower."""
        if pooling != "native":
            raise ProtoRKDError(f"--pooling must be native for an image tower of OpenCLIP; got {pooling}.")
        tower, tag = _split(name)
        open_clip = _open_clip()
        config = open_clip.get_model_config(tower)
        size = image_size or _side(config["vision_cfg"]["image_size"])
        vision = config["vision_cfg"] | {"image_size": size, "output_tokens": False, "timm_model_pretrained": False}
        # open_clip makes image towers only inside a CLIP model; the text half is dropped on return.
        clip = open_clip.CLIP(
            embed_dim=config["embed_dim"],
            vision_cfg=vision,
            text_cfg=_SMALLEST_TEXT_TOWER,
            quick_gelu=config.get("quick_gelu", False),
        )
        return BuiltBackbone(_visual(clip).eval(), _preprocessing(tower, tag, size))

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":  # noqa: ARG002
        """Take the tensors as they are."""
        return dict(tensors)

    def published_tensors(
        self,
        name: str,
        network: "nn.Module",  # noqa: ARG002 - as in `BackboneFamily`
        source: BackboneSource,
        *,
        image_size: int,
    ) -> "dict[str, Tensor]":
        """Read the weights as open_clip does, which resizes position embeddings where it can."""
        tower, tag = _split(name)
        try:
            clip = _open_clip().create_model(
                tower, pretrained=str(source.weights[0]), force_image_size=image_size, weights_only=True
            )
        except Exception as error:  # from open_clip's own checks to those of the text tower's library
            raise ProtoRKDError(
                f"--pretrained {PREFIX}{tag} must fit {tower} with images of {image_size} pixels; got {error}. "
                f"Pass the --image-size that it was trained with."
            ) from error
        return dict(_visual(clip).state_dict())


def _split(name: str) -> tuple[str, str]:
    """Split a name into a tower that open_clip lists, and a tag, "" without one.

    Raises:
        ProtoRKDError: open_clip is not installed, or does not list it.
    """
    tower, _, tag = name.partition(":")
    known = _open_clip().list_models()
    if tower not in known:
        nearest = ", ".join(difflib.get_close_matches(tower, known, n=3)) or "none"
        raise ProtoRKDError(
            f"--student {PREFIX}NAME must name a model of open_clip; got {PREFIX + tower!r}. Nearest: {nearest}."
        )
    return tower, tag


def _check_tag(tower: str, tag: str) -> None:
    open_clip = _open_clip()
    tags = open_clip.list_pretrained_tags_by_model(tower)
    if tag not in tags:
        known = f"Known: {', '.join(tags)}" if tags else "It has none: leave --pretrained out"
        raise ProtoRKDError(f"--pretrained {PREFIX}TAG must be a tag of {tower} in open_clip; got {tag!r}. {known}.")
    published = open_clip.get_pretrained_cfg(tower, tag)
    uses_quick_gelu = bool(open_clip.get_model_config(tower).get("quick_gelu", False))
    if bool(published.get("quick_gelu", False)) != uses_quick_gelu:
        twin = tower.removesuffix("-quickgelu") if uses_quick_gelu else f"{tower}-quickgelu"
        raise ProtoRKDError(
            f"--pretrained {PREFIX}{tag} must go with a tower of the activation that it was trained with; got {tower}. "
            f"Pass --student {PREFIX}{twin}."
        )


def _preprocessing(tower: str, tag: str, size: int) -> Preprocessing:
    """Return the preprocessing that published weights want: those of the tag, or else of the tower's first tag."""
    open_clip = _open_clip()
    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(tower)[:1]
    published = open_clip.get_pretrained_cfg(tower, tags[0]) if tags else {}
    mean = tuple(published.get("mean") or _OPENAI_MEAN)
    std = tuple(published.get("std") or _OPENAI_STD)
    return Preprocessing(
        image_size=size,
        mean=mean,
        std=std,
        interpolation=published.get("interpolation") or "bicubic",
        resize="squash" if published.get("resize_mode") == "squash" else "shortest",
    )


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, tuple | list) else size)


def _open_clip() -> Any:  # a module without types
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ProtoRKDError(f"{PREFIX}NAME must have open_clip installed; got {error}. Run: {INSTALL}") from error


def _visual(clip: Any) -> "nn.Module":
    visual: nn.Module = clip.visual
    return visual
