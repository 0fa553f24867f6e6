"""A picture encoder and a text encoder in one space, as ProtoRKD exports them for sentence-transformers.

This file lies beside the model's weights. Beside sentence-transformers it needs torchvision and Pillow alone, and
open_clip where the pictures' encoder is one of its towers. Captions are always text, also when they look like an
address or a path: nothing is opened that is not handed over as a picture.
"""

import importlib
import json
import shutil
import sys
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torchvision
from PIL import ExifTags, Image
from sentence_transformers.base.modules import InputModule, Router
from sentence_transformers.util import import_module_class
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms import v2

FORMAT = 1
"""Of the files that these classes write; raised when older code cannot read them."""

_FILE_NAME = "modeling_protorkd"
_LOADING = ("token", "cache_folder", "revision", "local_files_only")
_NUM_CLASSES = 1000
_WIDE_RESNETS = {"resnet50w2": 2, "resnet50w4": 4, "resnet50w5": 5}
_OPEN_CLIP = "open-clip:"
_SMALLEST_TEXT_TOWER = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ProtoRKDRouter(Router):  # type: ignore[misc]
    """Captions to the teacher's modules, pictures to the student; which is which goes by type alone.

    Args:
        sub_modules: ``text`` and ``image``.
        max_tokens: longest caption in tokens, the rest is cut off; 0 for the text encoder's own limit.
        truncate_dim: keep the first so many dimensions of a caption's embedding, before it is normalised; 0 for all.
    """

    config_keys: ClassVar = ["max_tokens", "truncate_dim"]

    def __init__(self, sub_modules: dict[str, list[Any]], max_tokens: int = 0, truncate_dim: int = 0) -> None:
        super().__init__(sub_modules, default_route="text", allow_empty_key=False)
        self.max_tokens = max_tokens
        self.truncate_dim = truncate_dim
        if max_tokens:
            self.sub_modules["text"][0].max_seq_length = max_tokens

    @property
    def modalities(self) -> list[str]:
        """Text and pictures; "message" is what the library takes captions for, some of which look like addresses."""
        return ["text", "image", "message"]

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        modality: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Make captions, or pictures, ready for `forward`.

        Args:
            inputs: texts alone, or pictures alone (PIL images or uint8 arrays).
            prompt: put before each text.
            task: handed on to text encoders that have several.
            modality: "text" or "image", to be sure of it; by default it follows from the inputs.
            kwargs: handed on.

        Raises:
            ValueError: texts and pictures are mixed, or it is neither.
        """
        routes = {"text" if _is_text(each) else "image" for each in inputs} or {"text"}
        if len(routes) > 1:
            raise ValueError("A batch must have captions alone or pictures alone; got both. Encode them apart.")
        [route] = routes
        if modality not in (None, route):
            raise ValueError(f"modality must be {route!r} for what is given; got {modality!r}.")
        encoder: Any = self.sub_modules[route][0]
        if route == "text":
            # An encoder that takes more than text would open a caption that looks like a path or an address.
            wrap = set(getattr(encoder, "modalities", ["text"])) != {"text"}
            texts = [each["text"] if isinstance(each, dict) else each for each in inputs]
            texts = [{"text": text} for text in texts] if wrap else texts
            features = encoder.preprocess(texts, prompt=prompt, task=task, **kwargs)
        else:
            features = encoder.preprocess(inputs)
        return {**features, "task": task, "modality": route}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed what `preprocess` made ready."""
        features = super().forward(features, **kwargs)
        if self.truncate_dim and features["modality"] == "text":
            features["sentence_embedding"] = features["sentence_embedding"][:, : self.truncate_dim]
        return features

    def get_embedding_dimension(self) -> int:
        """Width of both kinds of embeddings."""
        width: int = self.sub_modules["image"][0].get_embedding_dimension()
        return width

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the modules so that a process that has not loaded this file can load them again."""
        super().save(output_path, *args, **kwargs)
        path = Path(output_path) / self.config_file_name
        config = json.loads(path.read_text(encoding="utf-8"))
        for model_id, reference in config["types"].items():
            place, _, name = reference.rpartition(".")
            if place.startswith("transformers_modules."):
                source = Path(str(sys.modules[place].__file__))
                shutil.copy(source, Path(output_path) / source.name)
                config["types"][model_id] = f"{source.stem}.{name}"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", trust_remote_code: bool = False, **kwargs: Any) -> Self:
        """Load the modules; those of this file need no more trust than it was given already.

        Args:
            model_name_or_path: a folder, or a name on the hub.
            subfolder: of the router's own files.
            trust_remote_code: whether text encoders may bring code of their own.
            kwargs: as sentence-transformers hands them to modules.
        """
        where = {name: kwargs[name] for name in _LOADING if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
        modules = {}
        for model_id, reference in config["types"].items():
            if PurePosixPath(model_id).parts != (model_id,) or model_id == "..":
                raise ValueError(f"{cls.config_file_name} must name folders beside it; got {model_id!r}.")
            if reference == f"{_FILE_NAME}.{ProtoRKDImageEncoder.__name__}":
                kind: Any = ProtoRKDImageEncoder
            else:
                kind = import_module_class(
                    reference, model_name_or_path=model_name_or_path, trust_remote_code=trust_remote_code, **where
                )
            modules[model_id] = kind.load(
                model_name_or_path,
                subfolder=PurePosixPath(subfolder, model_id).as_posix(),
                trust_remote_code=trust_remote_code,
                **kwargs,
            )
        routes = {route: [modules[model_id] for model_id in ids] for route, ids in config["structure"].items()}
        return cls(routes, **{name: config["parameters"][name] for name in cls.config_keys})


class ProtoRKDImageEncoder(InputModule):  # type: ignore[misc]
    """Pictures to embeddings: a backbone without classifier, and a projection head.

    Args:
        backbone_name: a classification model of torchvision, a wide ResNet, or an image tower of OpenCLIP.
        embedding_dim: width of the embeddings.
        projection_layers: linear layers of the head; 0 for none.
        image_size: side of the square input, in pixels; the short side is resized to it, and the centre is taken.
        mean: of each RGB channel from 0 to 1, subtracted.
        std: of each RGB channel, divided by.
        interpolation: of the resize.
        format: of the files.

    Raises:
        ValueError: there is no such backbone, or the files are of a newer kind.
    """

    save_in_root = False
    modalities: ClassVar = ["image"]
    config_keys: ClassVar = [
        "backbone_name",
        "embedding_dim",
        "projection_layers",
        "image_size",
        "mean",
        "std",
        "interpolation",
        "format",
    ]

    def __init__(
        self,
        *,
        backbone_name: str,
        embedding_dim: int,
        projection_layers: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str = "bicubic",
        format: int = FORMAT,  # noqa: A002 - the key in the file
    ) -> None:
        super().__init__()
        if format > FORMAT:
            raise ValueError(f"The picture encoder must be of format {FORMAT} or older; got {format}.")
        self.backbone_name = backbone_name
        self.embedding_dim = embedding_dim
        self.projection_layers = projection_layers
        self.image_size = image_size
        self.mean, self.std = list(mean), list(std)
        self.interpolation = interpolation
        self.format = format
        resize = v2.Resize(image_size, interpolation=v2.InterpolationMode(interpolation), antialias=True)
        self._crop = v2.Compose([resize, v2.CenterCrop(image_size)])
        self.backbone, feature_dim = build_backbone(backbone_name, image_size=image_size)
        self.head = build_head(feature_dim, embedding_dim, num_layers=projection_layers)
        scale, shift = 1 / (255 * torch.tensor(self.std)), -torch.tensor(self.mean) / torch.tensor(self.std)
        self.register_buffer("_scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", shift.view(1, 3, 1, 1), persistent=False)

    def preprocess(self, inputs: Sequence[Any], **_kwargs: Any) -> dict[str, Tensor]:
        """Turn upright, take what is transparent for white, resize the short side, crop the centre.

        Args:
            inputs: PIL images, uint8 arrays of (height, width, 3), or ``{"image": ...}`` around one.
            _kwargs: for texts, such as a prompt; they do nothing here.

        Raises:
            ValueError: something is no picture, such as a path or an address, which is never opened.

        Shapes:
            pixel_values: (pictures, 3, image_size, image_size), uint8.
        """
        crops = [np.array(self._crop(to_rgb(_as_image(each))), copy=True) for each in inputs]
        return {"pixel_values": torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Normalise and embed.

        Shapes:
            sentence_embedding: (pictures, embedding_dim), not of unit length.
        """
        pixels = features["pixel_values"].float()
        images = torch.addcmul(self._shift.float(), pixels, self._scale.float())
        dtype = next(self.parameters()).dtype
        features["sentence_embedding"] = self.head(self.backbone(images.to(dtype)))
        return features

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings."""
        return self.embedding_dim

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights; what carries no versions of modules, as a safetensors file, is taken to be of today's.

        Without this, torchvision's mnasnet refuses all that was not written by ``torch.save``.
        """
        versioned = OrderedDict(state_dict)
        versioned._metadata = getattr(self.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
        return super().load_state_dict(versioned, strict=strict, assign=assign)

    def save(self, output_path: str, *_args: Any, safe_serialization: bool = True, **_kwargs: Any) -> None:
        """Write configuration and weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Load configuration and weights from a folder, or by a name on the hub."""
        where = {name: kwargs[name] for name in _LOADING if name in kwargs}
        encoder = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **where))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=encoder, **where)
        encoder.eval()
        return encoder


def to_rgb(image: Image.Image) -> Image.Image:
    """Give a picture as 8-bit RGB, turned upright; transparent parts white, the upper 8 bits of 16.

    Raises:
        ValueError: its colours have no conversion to RGB.
    """
    try:
        turn = _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # none, or damaged metadata of a sound picture
        turn = None
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        samples, is_float = np.asarray(image), image.mode == "F"
        if not ((samples >= 0) & (samples <= (1 if is_float else 65535))).all():
            raise ValueError(f"A picture of mode {image.mode} must have samples from 0 to {1 if is_float else 65535}.")
        return _from_grey(np.rint(samples * 255) if is_float else samples >> 8)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"A picture must have colours that convert to RGB; got mode {image.mode}.")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def build_backbone(name: str, *, image_size: int) -> tuple[nn.Module, int]:
    """Make an untrained backbone in eval mode, and say how wide its features are.

    Raises:
        ValueError: there is no such backbone.
    """
    if name in _WIDE_RESNETS:
        backbone: nn.Module = _WideResNet(_WIDE_RESNETS[name])
    elif name in torchvision.models.list_models(module=torchvision.models):
        backbone = torchvision.models.get_model(name, weights=None, **_model_options(name, image_size))
        classifiers = [path for path, module in backbone.named_modules() if _is_classifier(module)]
        backbone.set_submodule(classifiers[-1], nn.Identity())
    else:
        backbone = _build_tower(name.removeprefix(_OPEN_CLIP), image_size)
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    return backbone, features.shape[1]


def build_head(feature_dim: int, embedding_dim: int, *, num_layers: int) -> nn.Module:
    """Make an untrained projection head: linear layers, all but the last with batch normalisation and ReLU."""
    if not num_layers:
        return nn.Identity()
    layers: list[nn.Module] = []
    for width, next_width in pairwise([feature_dim] * num_layers):
        layers += [nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(feature_dim, embedding_dim))


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
    try:
        # Not an import statement, which would have everybody who loads this file install it.
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        raise ValueError(
            f"{tower} must have open_clip installed; got {error}. Run: pip install open_clip_torch"
        ) from error
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


def _is_text(value: Any) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(each, str) for each in value)
    return isinstance(value, str) or pair or (isinstance(value, dict) and set(value) == {"text"})


def _as_image(value: Any) -> Image.Image:
    if isinstance(value, dict) and set(value) == {"image"}:
        value = value["image"]
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        return Image.fromarray(value)
    raise ValueError(
        f"A picture must be a PIL image or a uint8 array of (height, width, 3); got {type(value).__name__}. Files and "
        "addresses are not opened: pass PIL.Image.open(path)."
    )


def _from_grey(samples: np.ndarray) -> Image.Image:
    return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
