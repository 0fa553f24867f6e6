"""An image encoder and a text encoder in one space, as ProtoRKD exports them for sentence-transformers.

This file lies beside the model's weights, and `networks_protorkd` beside it. Beside sentence-transformers they need
torchvision and Pillow, and the library of the backbone where that is of another. Captions are always text, also when
they look like an address or a path: nothing is opened that is not handed over as an image.
"""

import json
import math
import shutil
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import ExifTags, Image
from sentence_transformers.base.modules import InputModule, Module, Router
from sentence_transformers.util import import_module_class
from torch import Tensor
from torchvision.transforms import v2

from .networks_protorkd import build_backbone, build_feature_head, build_head

FORMAT = 2
"""Format of the files that these classes write; raised when older code cannot read them."""

_FILE_NAME, _NETWORKS_NAME = "modeling_protorkd", "networks_protorkd.py"
_LOADING = ("token", "cache_folder", "revision", "local_files_only")
_SIXTEEN_BITS = ("PPM", "PNG")  # formats whose samples have at most 16 bits, which Pillow may return in 32
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
    """Send captions to the teacher's modules and images to the student; which is which goes by type alone.

    Args:
        sub_modules: Modules of the routes ``text`` and ``image``.
        max_tokens: Longest caption in tokens, beyond which it is cut; 0 takes the text encoder's own limit.
        truncate_dim: Number of leading dimensions that a caption's embedding keeps, before it is normalised; 0 keeps
            all.
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
        """Names of what is taken; "message" is what the library takes captions for that look like addresses."""
        return ["text", "image", "message"]

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        modality: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Make captions, or images, ready for `forward`.

        Args:
            inputs: Captions alone, or images alone: PIL images or uint8 arrays.
            prompt: Prompt that is put before each caption.
            task: Task of a text encoder that has several.
            modality: Modality that the inputs must have, ``text`` or ``image``; None takes either.
            kwargs: Further options of the text encoder.

        Raises:
            ValueError: Captions and images are mixed, or an input is neither.
        """
        routes = {"text" if _is_text(each) else "image" for each in inputs} or {"text"}
        if len(routes) > 1:
            raise ValueError("A batch must have captions alone or images alone; got both. Encode them apart.")
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
        """Return the width of both kinds of embeddings."""
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
                beside = [source.with_name(_NETWORKS_NAME)] if source.stem == _FILE_NAME else []
                for file in (source, *beside):
                    shutil.copy(file, Path(output_path) / file.name)
                config["types"][model_id] = f"{source.stem}.{name}"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", trust_remote_code: bool = False, **kwargs: Any) -> Self:
        """Load the modules; those of this file need no more trust than it was given already.

        Args:
            model_name_or_path: Folder of the model, or its name on the hub.
            subfolder: Folder of the router's own files.
            trust_remote_code: Whether text encoders may bring code of their own.
            kwargs: Options that sentence-transformers hands to modules.
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
    """Embed images by a backbone without classifier and a head.

    Args:
        backbone_name: Name of the backbone, as `build_backbone` takes it.
        embedding_dim: Width of the embeddings.
        projection_layers: Number of linear layers of the head, unless there is a ``feature_head``; 0 for none.
        image_size: Side of the square input in pixels, which is cut from the centre.
        mean: Mean of each RGB channel from 0 to 1, subtracted.
        std: Standard deviation of each RGB channel, divided by.
        interpolation: Interpolation of the resize.
        resize_size: Side to which the short side is resized before the cut, in pixels; 0 is ``image_size``.
        resize: Whether the short side is resized and the ratio kept, ``shortest``, or both sides, ``squash``.
        pooling: Pooling of a transformer's tokens: ``native``, ``cls``, ``mean`` or ``cls+mean``.
        architecture: Configuration of a backbone that is not built by its name alone.
        feature_head: Kind and width of a head on standardised features, such as ``{"kind": "mlp", "width": 2048}``.
        format: Format of the files.

    Raises:
        ValueError: There is no such backbone or head, or the files are of a newer format.
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
        "resize_size",
        "resize",
        "pooling",
        "architecture",
        "feature_head",
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
        resize_size: int = 0,
        resize: str = "shortest",
        pooling: str = "native",
        architecture: Mapping[str, Any] | None = None,
        feature_head: Mapping[str, Any] | None = None,
        format: int = FORMAT,  # noqa: A002 - the key in the file
    ) -> None:
        super().__init__()
        if format > FORMAT:
            raise ValueError(f"The image encoder must be of format {FORMAT} or older; got {format}.")
        self.backbone_name, self.pooling, self.architecture = backbone_name, pooling, architecture
        self.embedding_dim, self.projection_layers, self.feature_head = embedding_dim, projection_layers, feature_head
        self.image_size, self.resize_size, self.resize = image_size, resize_size, resize
        self.mean, self.std, self.interpolation = list(mean), list(std), interpolation
        self.format = FORMAT
        side = resize_size or image_size
        self._crop = v2.Compose(
            [
                v2.Resize(
                    [side, side] if resize == "squash" else side,
                    interpolation=v2.InterpolationMode(interpolation),
                    antialias=True,
                ),
                v2.CenterCrop(image_size),
            ]
        )
        self.backbone, feature_dim = build_backbone(
            backbone_name, image_size=image_size, pooling=pooling, architecture=architecture
        )
        self.head = (
            build_head(feature_dim, embedding_dim, num_layers=projection_layers)
            if feature_head is None
            else build_feature_head(feature_dim, embedding_dim, kind=feature_head["kind"], width=feature_head["width"])
        )
        scale, shift = 1 / (255 * torch.tensor(self.std)), -torch.tensor(self.mean) / torch.tensor(self.std)
        self.register_buffer("_scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", shift.view(1, 3, 1, 1), persistent=False)

    def preprocess(self, inputs: Sequence[Any], **_kwargs: Any) -> dict[str, Tensor]:
        """Turn images upright, show what is transparent on white, resize, and cut the centre.

        Args:
            inputs: PIL images, uint8 arrays of (height, width, 3), or ``{"image": ...}`` around one.
            _kwargs: Options for captions, such as a prompt, which do nothing here.

        Raises:
            ValueError: An input is no image, such as a path or an address, which is never opened; or its samples are of
                unknown scale.

        Shapes:
            pixel_values: (images, 3, image_size, image_size), uint8.
        """
        crops = [np.array(self._crop(to_rgb(_as_image(each))), copy=True) for each in inputs]
        return {"pixel_values": torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Normalise images and embed them.

        Shapes:
            sentence_embedding: (images, embedding_dim), float, not of unit length.
        """
        pixels = features["pixel_values"].float()
        images = torch.addcmul(self._shift.float(), pixels, self._scale.float())
        dtype = next(self.parameters()).dtype
        features["sentence_embedding"] = self.head(self.backbone(images.to(dtype)))
        return features

    def get_embedding_dimension(self) -> int:
        """Return the width of the embeddings."""
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


class ProtoRKDCalibration(Module):  # type: ignore[misc]
    """Write a calibration into embeddings of unit length, as one more number: scores are inner products from then on.

    Images get what makes their scores comparable, queries (``encode_query``) a 1, and other captions a 0: the numbers
    of captions stay the text encoder's own.

    Args:
        kind: ``query-bank``: an image's scores lose how near it is to every caption of a bank; ``mixed``: they are
            mapped onto the scale of scores between captions.
        embedding_dim: Width of the embeddings without that number.
        num_captions: Number of captions in the bank.
        temperature: Temperature of the mean over the bank; the lower, the more the nearest captions count.
        slope: Factor of images' scores.
        offset: What is added to them then.

    Raises:
        ValueError: There is no such calibration.
    """

    config_keys: ClassVar = ["kind", "embedding_dim", "num_captions", "temperature", "slope", "offset"]

    def __init__(
        self,
        *,
        kind: str,
        embedding_dim: int,
        num_captions: int = 0,
        temperature: float = 1.0,
        slope: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in ("query-bank", "mixed"):
            raise ValueError(f"A calibration must be query-bank or mixed; got {kind!r}.")
        self.kind, self.embedding_dim, self.num_captions = kind, embedding_dim, num_captions
        self.temperature, self.slope, self.offset = temperature, slope, offset
        self.register_buffer("query_bank", torch.zeros(num_captions, embedding_dim))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Extend embeddings, which must be of unit length.

        Shapes:
            sentence_embedding: (rows, embedding_dim) before, (rows, embedding_dim + 1) after, float.
        """
        embeddings = features["sentence_embedding"]
        if features["modality"] == "image":
            features["sentence_embedding"] = self.extend_images(embeddings)
        else:
            last = embeddings.new_full((len(embeddings), 1), float(features.get("task") == "query"))
            features["sentence_embedding"] = torch.cat([embeddings, last], dim=1)
        return features

    def extend_images(self, images: Tensor) -> Tensor:
        """Extend the embeddings of images.

        Shapes:
            images: (images, embedding_dim), float, of unit length.
            returns: (images, embedding_dim + 1).
        """
        if self.kind == "mixed":
            return torch.cat([images * self.slope, torch.full_like(images[:, :1], self.offset)], dim=1)
        scores = images @ self.query_bank.to(images.dtype).T / self.temperature
        nearness = torch.logsumexp(scores, dim=1, keepdim=True) - math.log(self.num_captions)
        return torch.cat([images, -self.temperature * nearness], dim=1)

    def get_embedding_dimension(self) -> int:
        """Return the width of the embeddings, with the added number."""
        return self.embedding_dim + 1

    def save(self, output_path: str, *_args: Any, safe_serialization: bool = True, **_kwargs: Any) -> None:
        """Write configuration and bank."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Load configuration and bank from a folder, or by a name on the hub."""
        where = {name: kwargs[name] for name in _LOADING if name in kwargs}
        calibration = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **where))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=calibration, **where)
        return calibration


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, turned upright: transparent parts white, of 16 bits the upper 8.

    Raises:
        ValueError: Its colours have no conversion to RGB, or its samples are of unknown scale.
    """
    has_16_bits = image.format in _SIXTEEN_BITS
    try:
        turn = _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # none, or damaged metadata of a sound image
        turn = None
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I;16"):
        return _from_grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        return _from_wide_samples(np.asarray(image), is_float=image.mode == "F", has_16_bits=has_16_bits)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"An image must have colours that convert to RGB; got mode {image.mode}.")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _from_wide_samples(samples: np.ndarray, *, is_float: bool, has_16_bits: bool) -> Image.Image:
    """Scale 32-bit samples to 8 bits, where they are floats from 0 to 1, or of a 16-bit file that Pillow widens."""
    if not (is_float or has_16_bits):
        raise ValueError("An image must have samples of a known scale; got integers of 32 bits. Scale them to 8 bits.")
    highest = 1 if is_float else 65535
    if not ((samples >= 0) & (samples <= highest)).all():
        raise ValueError(f"An image of 32-bit samples must have samples from 0 to {highest}. Scale them to 8 bits.")
    return _from_grey(np.rint(samples * 255) if is_float else samples >> 8)


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
        f"An image must be a PIL image or a uint8 array of (height, width, 3); got {type(value).__name__}. Files and "
        "addresses are not opened: pass PIL.Image.open(path)."
    )


def _from_grey(samples: np.ndarray) -> Image.Image:
    return Image.fromarray(samples.astype(np.uint8)).convert("RGB")
