"""Networks of an exported image encoder: backbones of torchvision, timm, transformers and OpenCLIP, and heads.

This file lies beside the model's weights, and imports a library only where the backbone is one of its models.
"""

import importlib
import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

_NUM_CLASSES = 1000
WIDE_RESNETS = {"resnet50w2": 2, "resnet50w4": 4, "resnet50w5": 5}
_OPEN_CLIP, _TIMM, _HF = "open-clip:", "timm:", "hf:"
_PACKAGES = {"open_clip": "open_clip_torch"}
_SMALLEST_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}

# Vision models of transformers, by the type in their configuration: class, output that is their own pooling, number of
# tokens before the patches (None: no tokens), and whether the class has an option for its pooling layer.
_HF_KINDS: dict[str, tuple[str, str, int | None, bool]] = {
    "beit": ("BeitModel", "pooler_output", 1, True),
    "clip_vision_model": ("CLIPVisionModelWithProjection", "image_embeds", 1, False),
    "convnext": ("ConvNextModel", "pooler_output", None, False),
    "convnextv2": ("ConvNextV2Model", "pooler_output", None, False),
    "deit": ("DeiTModel", "pooler_output", 2, True),
    "dinov2": ("Dinov2Model", "pooler_output", 1, False),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "pooler_output", 1, False),
    "dinov3_convnext": ("DINOv3ConvNextModel", "pooler_output", None, False),
    "dinov3_vit": ("DINOv3ViTModel", "pooler_output", 1, False),
    "resnet": ("ResNetModel", "pooler_output", None, False),
    "siglip_vision_model": ("SiglipVisionModel", "pooler_output", 0, False),
    "swin": ("SwinModel", "pooler_output", 0, False),
    "swinv2": ("Swinv2Model", "pooler_output", 0, False),
    "vit": ("ViTModel", "pooler_output", 1, True),
}


def build_backbone(
    name: str, *, image_size: int, pooling: str = "native", architecture: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """Build an untrained backbone in eval mode, and return it with the width of its features.

    Args:
        name: Model of torchvision, wide ResNet, ``timm:NAME``, ``hf:NAME``, or image tower of OpenCLIP.
        image_size: Side of its square input in pixels.
        pooling: Pooling of a transformer's tokens: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        architecture: Configuration that a model of transformers, or of a folder of timm's, is built from.

    Raises:
        ValueError: there is no such backbone, or its library is not installed.
    """
    if name.startswith(_TIMM):
        backbone = _build_timm(name.removeprefix(_TIMM), image_size, pooling, architecture)
    elif name.startswith(_HF):
        backbone = _VisionModel(architecture or {}, image_size, pooling)
    elif name in WIDE_RESNETS:
        backbone = _WideResNet(WIDE_RESNETS[name])
    elif name in torchvision.models.list_models(module=torchvision.models):
        backbone = torchvision.models.get_model(name, weights=None, **_model_options(name, image_size))
        classifiers = [path for path, module in backbone.named_modules() if _is_classifier(module)]
        backbone.set_submodule(classifiers[-1], nn.Identity())
    else:
        backbone = _build_tower(name.removeprefix(_OPEN_CLIP).partition(":")[0], image_size)
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    return backbone, features.shape[1]


def build_head(feature_dim: int, embedding_dim: int, *, num_layers: int) -> nn.Module:
    """Build an untrained projection head: linear layers, all but the last with batch normalisation and ReLU."""
    if not num_layers:
        return nn.Identity()
    layers: list[nn.Module] = []
    for width, next_width in pairwise([feature_dim] * num_layers):
        layers += [nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(feature_dim, embedding_dim))


def build_feature_head(feature_dim: int, embedding_dim: int, *, kind: str, width: int = 0) -> nn.Module:
    """Build an untrained head on the features of a frozen backbone.

    Raises:
        ValueError: there is no such kind of head.
    """
    if kind == "linear":
        layers: nn.Module = nn.Linear(feature_dim, embedding_dim)
    elif kind == "mlp":
        layers = _mlp(feature_dim, width, embedding_dim)
    elif kind == "gated":
        layers = _GatedHead(feature_dim, width, embedding_dim)
    elif kind == "residual":
        layers = _ResidualHead(feature_dim, width, embedding_dim)
    else:
        raise ValueError(f"The head must be linear, mlp, gated or residual; got {kind!r}.")
    return _FeatureHead(layers, feature_dim)


class _FeatureHead(nn.Module):
    """Standardise features by statistics of the corpus that the head was trained on, then map them to embeddings."""

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, layers: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.layers = layers

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.layers((features - self.feature_mean) / self.feature_std)
        return embeddings


class _GatedHead(nn.Module):
    """Project the product of two projections of normalised features (SAIL, arXiv:2412.04616)."""

    def __init__(self, feature_dim: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.gate = nn.Linear(feature_dim, width)
        self.value = nn.Linear(feature_dim, width)
        self.project = nn.Linear(width, embedding_dim)

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        product = nn.functional.relu6(self.gate(features)) * self.value(features)  # (batch, width)
        embeddings: Tensor = self.project(product)
        return embeddings


class _ResidualHead(nn.Module):
    """Project the sum of features and what an MLP makes of them."""

    def __init__(self, feature_dim: int, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.mlp = _mlp(feature_dim, width, feature_dim)
        self.project = nn.Linear(feature_dim, embedding_dim)

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.project(features + self.mlp(features))
        return embeddings


def _mlp(feature_dim: int, width: int, embedding_dim: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(feature_dim, width, bias=False),
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Dropout(),  # has no weights, and does nothing in eval mode
        nn.Linear(width, embedding_dim),
    )


class _WideResNet(ResNet):  # type: ignore[misc]
    """ResNet-50 with every layer so many times as wide, without classifier (SwAV, arXiv:2006.09882)."""

    def __init__(self, widening: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        width = 64 * widening
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for index, num_blocks in enumerate([3, 4, 6, 3]):
            layer = self._make_layer(Bottleneck, width * 2**index, num_blocks, stride=2 if index else 1)
            setattr(self, f"layer{index + 1}", layer)
        self.fc = nn.Identity()


class _PooledTokens(nn.Module):
    """A model of timm whose tokens are pooled in another way than its own."""

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        if getattr(model, "attn_pool", None) is not None:
            model.attn_pool = None
        self.model = model
        self.pooling = pooling
        self._has_norm = isinstance(getattr(model, "fc_norm", None), nn.Module)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.model.forward_features(images)
        parts = [_pool(tokens, part, self.model.num_prefix_tokens) for part in self.pooling.split("+")]
        return torch.cat([self.model.fc_norm(part) if self._has_norm else part for part in parts], dim=1)


class _VisionModel(nn.Module):
    """A vision model of transformers whose output is features."""

    def __init__(self, architecture: Mapping[str, Any], image_size: int, pooling: str) -> None:
        super().__init__()
        transformers = _import("transformers", "A backbone of transformers")
        if architecture.get("model_type") not in _HF_KINDS:
            raise ValueError(f"The backbone must be of {', '.join(_HF_KINDS)}; got {architecture.get('model_type')!r}.")
        model_class, self._output, num_prefix, adds_pooler = _HF_KINDS[architecture["model_type"]]
        [saved] = architecture.get("architectures") or [""]
        if adds_pooler and "For" in saved and model_class != "BeitModel":
            self._output = "cls"  # what its classifier sees; the weights have no pooling layer
        elif saved == "CLIPVisionModel":
            self._output = "pooler_output"
        config = transformers.AutoConfig.for_model(**architecture)
        wants_pooler = pooling == "native" and self._output != "cls"
        if model_class == "CLIPVisionModelWithProjection" and not (wants_pooler and self._output == "image_embeds"):
            model_class = "CLIPVisionModel"
        if model_class == "SiglipVisionModel":
            config.vision_use_head = wants_pooler
        options = {"add_pooling_layer": wants_pooler} if adds_pooler else {}
        self.model: Any = getattr(transformers, model_class)(config, **options)
        self._pooling = "cls" if pooling == "native" and self._output == "cls" else pooling
        self._num_prefix = (num_prefix or 0) + int(getattr(config, "num_register_tokens", 0) or 0)
        self._normalises_tokens = model_class == "CLIPVisionModel"  # by itself it does so for the class token alone
        own = getattr(config, "image_size", image_size)
        differs = (own[0] if isinstance(own, list | tuple) else own) != image_size
        takes_sizes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if takes_sizes and differs else {}

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(pixel_values=images, **self._options)
        if self._pooling == "native":
            features: Tensor = outputs[self._output].flatten(1)
            return features
        tokens = outputs.last_hidden_state
        if self._normalises_tokens and hasattr(self.model, "post_layernorm"):
            tokens = self.model.post_layernorm(tokens)
        return torch.cat([_pool(tokens, part, self._num_prefix) for part in self._pooling.split("+")], dim=1)


def _pool(tokens: Tensor, pooling: str, num_prefix: int) -> Tensor:
    return tokens[:, 0] if pooling == "cls" else tokens[:, num_prefix:].mean(dim=1)


def _build_timm(name: str, image_size: int, pooling: str, architecture: Mapping[str, Any] | None) -> nn.Module:
    timm = _import("timm", f"{_TIMM}{name}")
    options: dict[str, Any] = {"model_name": name}
    if architecture is not None:
        published = timm.models.PretrainedCfg(**architecture["pretrained_cfg"])
        options = {"model_name": architecture["architecture"], "pretrained_cfg": dict(architecture["pretrained_cfg"])}
        options |= architecture.get("model_args") or {}
    elif timm.is_model(name.partition(".")[0]):
        published = timm.get_pretrained_cfg(name)
    else:
        raise ValueError(f"The backbone must be known to timm; got {name!r}.")
    if published is not None and published.fixed_input_size and published.input_size[-1] != image_size:
        options["img_size"] = image_size
    model: nn.Module = timm.create_model(pretrained=False, num_classes=0, **options)
    return model if pooling == "native" else _PooledTokens(model, pooling)


def _model_options(name: str, image_size: int) -> dict[str, Any]:
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    return {}


def _is_classifier(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):  # squeezenet classifies each position, then pools
        return module.kernel_size == (1, 1) and module.out_channels == _NUM_CLASSES
    return isinstance(module, nn.Linear) and module.out_features == _NUM_CLASSES


def _build_tower(tower: str, image_size: int) -> nn.Module:
    open_clip = _import("open_clip", tower)
    if tower not in open_clip.list_models():
        raise ValueError(f"The backbone must be known to torchvision or open_clip; got {tower!r}.")
    config = open_clip.get_model_config(tower)
    vision = config["vision_cfg"] | {"image_size": image_size, "output_tokens": False, "timm_model_pretrained": False}
    clip = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=vision,
        text_cfg=_SMALLEST_TEXT_TOWER,
        quick_gelu=config.get("quick_gelu", False),
    )
    visual: nn.Module = clip.visual
    return visual


def _import(name: str, backbone: str) -> Any:
    try:
        # Not an import statement, which would have everybody who loads this file install it.
        return importlib.import_module(name)
    except ImportError as error:
        package = _PACKAGES.get(name, name)
        raise ValueError(f"{backbone} must have {name} installed; got {error}. Run: pip install {package}") from error
