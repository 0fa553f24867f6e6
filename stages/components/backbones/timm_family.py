"""Backbones of timm, by `timm:NAME[.TAG]` or `timm:FOLDER`; timm is an optional dependency, imported when needed."""

import contextlib
import difflib
import importlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.backbones.family import BackboneSource, BuiltBackbone
from stages.components.backbones.hub_files import find_model, find_snapshot, split_revision, weight_files

if TYPE_CHECKING:
    from torch import Tensor, nn

INSTALL = "pip install 'protorkd[timm]'"

_CONFIG_NAME = "config.json"
_FILTERS = ("checkpoint_filter_fn", "_filter_fn")  # what a module of timm calls the function that converts its files
_WRAPPED = "model."  # names inside `PooledTokens`
_TRUNK = "trunk."  # names inside OpenCLIP's towers that are models of timm


class TimmFamily:
    """All image models of timm, without their classifiers, and folders in the layout of timm's hub."""

    source = "timm"
    title = "a model of timm"
    prefix = "timm:"
    usage = "timm:NAME[.TAG] or timm:FOLDER"
    package = "timm"
    install = INSTALL

    def names(self) -> list[str]:
        """List timm's models, with the tags of their published weights; none where timm is not installed."""
        try:
            listed: list[str] = _timm().list_models(pretrained=True)
        except ProtoRKDError:
            return []
        return listed

    def check_published(self, name: str) -> None:
        """Refuse a name under which timm publishes no weights on the hub."""
        if not _is_folder(name) and not _published(name).hf_hub_id:
            raise ProtoRKDError(f"timm:{name} must have published weights; it has none. Pass --init-from FILE.")

    def find_description(self, name: str) -> BackboneSource | None:
        """Find the configuration in a folder; a name says all by itself."""
        if not _is_folder(name):
            return None
        return BackboneSource((), (_config_file(name),), source=str(Path(name).resolve()))

    def find_weights(self, name: str) -> BackboneSource:
        """Find the weights in a folder, or those that timm publishes on the hub under a name and tag."""
        if _is_folder(name):
            config = _config_file(name)
            weights = weight_files(config.parent, flag=f"timm:{name}")
            return BackboneSource(weights, (config,), source=str(config.parent.resolve()))
        repository, revision, file = f"timm/{name}", "", ""
        # A cached name with its tag says enough; importing timm, which knows the others, takes seconds.
        if "." not in name or not _is_cached(repository):
            self.check_published(name)
            published = _published(name)
            repository, revision = split_revision(published.hf_hub_id)
            file = published.hf_hub_filename or ""
        if file:
            folder = find_snapshot(
                repository,
                revision=revision,
                patterns=[file],
                is_enough=lambda folder: (folder / file).is_file(),
                name=f"timm:{name}",
            )
            weights = (folder / file,)
        else:
            folder = find_model(repository, revision=revision, described=(), name=f"timm:{name}")
            weights = weight_files(folder, flag=f"timm:{name}")
        return BackboneSource(weights, source=f"{repository}@{folder.name}")

    def build(
        self,
        name: str,
        *,
        image_size: int,
        pooling: str,
        architecture: Mapping[str, Any] | None = None,
        source: BackboneSource | None = None,
    ) -> BuiltBackbone:
        """Build a model of timm without its classifier."""
        described = source or (self.find_description(name) if architecture is None else None)
        if described is not None and described.description:
            architecture = _read_config(described.description[0])
        model, data = _create(name, image_size, architecture)
        return BuiltBackbone(
            _pooled(model, pooling, name=f"timm:{name}").eval(),
            _preprocessing(data, image_size),
            None if architecture is None else dict(architecture),
        )

    def own_tensors(self, name: str, network: "nn.Module", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":  # noqa: ARG002
        """Leave out the classifier, and resize position embeddings, as timm does for its own files."""
        from stages.components.backbones.token_pooling import PooledTokens

        prefix = _WRAPPED if isinstance(network, PooledTokens) else ""
        model: Any = network.model if isinstance(network, PooledTokens) else network
        bare = {key.removeprefix(prefix).removeprefix(_TRUNK): value for key, value in tensors.items()}
        module = sys.modules[type(model).__module__]
        convert = next((getattr(module, each) for each in _FILTERS if hasattr(module, each)), None)
        if convert is not None:
            # It fails on what is no file of timm's, in which whoever loads it names what does not fit.
            with contextlib.suppress(KeyError, RuntimeError, TypeError, ValueError, AttributeError):
                bare = convert(bare, model)
        heads = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        if getattr(model, "attn_pool", model) is None:
            heads += ("attn_pool.",)
        own = model.state_dict()
        return {prefix + key: value for key, value in bare.items() if key in own or not key.startswith(heads)}

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


def _create(name: str, image_size: int, architecture: Mapping[str, Any] | None) -> "tuple[Any, dict[str, Any]]":
    """Build the model, and return it with timm's configuration of its images."""
    timm = _timm()
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if architecture is None:
        published = _published(name)
        options["model_name"] = name
    else:
        published = timm.models.PretrainedCfg(**architecture["pretrained_cfg"])
        options |= {"model_name": architecture["architecture"], "pretrained_cfg": dict(architecture["pretrained_cfg"])}
        options |= architecture.get("model_args") or {}
    own_size = published.input_size[-1]
    if image_size and image_size != own_size and published.fixed_input_size:
        options["img_size"] = image_size
    model = timm.create_model(**options)
    return model, timm.data.resolve_model_data_config(model)


def _pooled(model: Any, pooling: str, *, name: str) -> "nn.Module":
    from stages.components.backbones.token_pooling import PooledTokens, check_pooling

    has_tokens = getattr(model, "num_prefix_tokens", None) is not None and hasattr(model, "forward_features")
    check_pooling(pooling, name=name, has_tokens=has_tokens, has_cls=getattr(model, "cls_token", None) is not None)
    if pooling == "native":
        network: nn.Module = model
        return network
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool = None  # pools natively, and nothing else
    return PooledTokens(model, pooling)


def _preprocessing(data: Mapping[str, Any], image_size: int) -> Preprocessing:
    size = image_size or data["input_size"][-1]
    return Preprocessing(
        image_size=size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"] if data["interpolation"] != "random" else "bicubic",
        resize_size=math.floor(size / data["crop_pct"]),
        resize="squash" if data["crop_mode"] == "squash" else "shortest",
    )


def _published(name: str) -> Any:
    """Return what timm knows of a name and tag.

    Raises:
        ProtoRKDError: timm is not installed, or has no such model or tag.
    """
    timm = _timm()
    model, _, tag = name.partition(".")
    known = timm.list_models()
    if model not in known:
        nearest = difflib.get_close_matches(model, known, n=3)
        raise ProtoRKDError(
            f"timm:NAME must name a model of timm; got {name!r}. Nearest: {', '.join(nearest) or 'none'}. "
            "A folder is timm:./FOLDER."
        )
    tags = _tags(model)
    if tag and tag not in tags:
        raise ProtoRKDError(
            f"timm:{model} must have the tag after its name; got {tag!r}. Known: {', '.join(tags) or 'none'}."
        )
    return timm.get_pretrained_cfg(name)


def _tags(model: str) -> list[str]:
    listed: list[str] = _timm().list_pretrained(f"{model}.*")
    return [each.partition(".")[2] for each in listed]


def _is_folder(name: str) -> bool:
    return Path(name).is_dir()


def _config_file(folder: str) -> Path:
    path = Path(folder, _CONFIG_NAME)
    if not path.is_file():
        raise ProtoRKDError(f"timm:{folder} must be a folder with timm's {_CONFIG_NAME}; it has none.")
    return path


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(path)
    if not isinstance(config, dict) or not {"architecture", "pretrained_cfg"} <= config.keys():
        raise ProtoRKDError(
            f"{path} must name timm's architecture and pretrained_cfg; it does not. A folder of a transformers model "
            "is hf:FOLDER."
        )
    return config


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "model.safetensors"), str)


def _timm() -> Any:  # a module without types
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ProtoRKDError(f"timm:NAME must have timm installed; got {error}. Run: {INSTALL}") from error
