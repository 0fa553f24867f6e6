"""Vision models of transformers as backbones: which kinds there are, and how their outputs become features."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.components.backbones.hf_family import KINDS, Kind
from stages.components.backbones.token_pooling import check_pooling, pool_tokens

_WRAPPED = "model."  # names inside `VisionBackbone`


class VisionBackbone(nn.Module):
    """A vision model of transformers whose output is features.

    Args:
        architecture: Configuration, from `vision_architecture`.
        pooling: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        image_size: Side of the square images in pixels.
        name: Name of the backbone, for messages.

    Raises:
        ProtoRKDError: it has no such pooling.

    Shapes:
        images: (batch, 3, image_size, image_size), float.
        returns: (batch, width), float.
    """

    def __init__(self, architecture: Mapping[str, Any], *, pooling: str, image_size: int, name: str) -> None:
        super().__init__()
        kind = KINDS[architecture["model_type"]]
        check_pooling(pooling, name=name, has_tokens=kind.num_prefix is not None, has_cls=kind.has_cls)
        config = _config(architecture, name)
        self.pooling = pooling
        self._num_prefix = (kind.num_prefix or 0) + int(getattr(config, "num_register_tokens", 0) or 0)
        self._output = _native_output(kind, architecture)
        wants_head = pooling == "native" and self._output != "cls"
        self._class, self._options = _model_class(kind, config, wants_head=wants_head, output=self._output)
        self.model: Any = self._class(config, **self._options)
        takes_sizes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        self._forward = {"interpolate_pos_encoding": True} if takes_sizes and _differs(config, image_size) else {}

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images."""
        outputs = self.model(pixel_values=images, **self._forward)
        pooling = "cls" if self._output == "cls" and self.pooling == "native" else self.pooling
        if pooling == "native":
            return outputs[self._output].flatten(1)  # type: ignore[no-any-return]
        tokens = outputs.last_hidden_state  # (batch, prefix + patches, dim)
        if hasattr(self.model, "post_layernorm") and self._class is transformers.CLIPVisionModel:
            tokens = self.model.post_layernorm(tokens)  # of which CLIP normalises the class token alone
        return pool_tokens(tokens, pooling, num_prefix=self._num_prefix)

    def own_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the tensors of the model from a file's, as transformers does when it loads one.

        Names of earlier versions, and those inside models with heads or of images and texts, become the model's own.
        Tensors that the file lacks are left out.
        """
        is_own = self.state_dict().keys() <= tensors.keys()
        bare = {key.removeprefix(_WRAPPED): value for key, value in tensors.items()} if is_own else dict(tensors)
        loaded, report = _load(self._class, self.model.config, bare, self._options)
        absent = {*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])}
        return {_WRAPPED + key: value for key, value in loaded.state_dict().items() if key not in absent}


def _config(architecture: Mapping[str, Any], name: str) -> Any:
    try:
        return transformers.AutoConfig.for_model(**architecture)
    except Exception as error:  # each field has a check of its own kind
        raise ProtoRKDError(
            f"{name} must have a configuration that transformers {transformers.__version__} builds; got {error}."
        ) from error


def _load(kind: Any, config: Any, tensors: dict[str, Tensor], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load tensors as transformers loads a file; its report, which lists all of a text tower, is not printed."""
    logging: Any = transformers.utils.logging  # of functions without types
    before, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            loaded, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                output_loading_info=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                **options,
            )
    finally:
        logging.set_verbosity(before)
        if has_bars:
            logging.enable_progress_bar()
    return loaded, report


def _native_output(kind: Kind, architecture: Mapping[str, Any]) -> str:
    """Return the output that is a model's own pooling, by the class that its file was saved from."""
    [saved] = architecture.get("architectures") or [""]
    if kind.adds_pooler and "For" in saved and kind.model != "BeitModel":
        return "cls"  # what its classifier sees; the file has no pooling layer
    if saved == "CLIPVisionModel":
        return "pooler_output"
    return kind.output


def _model_class(kind: Kind, config: Any, *, wants_head: bool, output: str) -> tuple[Any, dict[str, Any]]:
    """Return the class, and options with which it has no more layers than are used."""
    name = kind.model
    if kind.output == "image_embeds" and not (wants_head and output == "image_embeds"):
        name = "CLIPVisionModel"
    if kind.model == "SiglipVisionModel":
        config.vision_use_head = wants_head
    options = {"add_pooling_layer": wants_head} if kind.adds_pooler else {}
    return getattr(transformers, name), options


def _differs(config: Any, image_size: int) -> bool:
    own = getattr(config, "image_size", image_size)
    return bool((own[0] if isinstance(own, list | tuple) else own) != image_size)
