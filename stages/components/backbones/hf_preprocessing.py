"""Read how a model of transformers prepares its images, from the file beside its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_USABLE = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")
_UNPLAIN = ("max_num_patches", "do_pad", "do_image_splitting", "min_pixels", "max_pixels", "do_thumbnail")
_CONVNEXT = "ConvNext"
_CONVNEXT_CROP = 224 / 256
_CONVNEXT_SQUASHED = 384  # from this size on, ConvNeXt's images are squashed and not cropped
_SHORT_SIDED = ("CLIP", "ChineseCLIP", "Bit", _CONVNEXT)  # processors to which a bare number is the short side


def preprocessing_of(values: Mapping[str, Any], path: Path, *, image_size: int) -> Preprocessing:
    """Read the preprocessing of images from the JSON of an image processor.

    Args:
        values: The JSON.
        path: File that it was read from, for messages.
        image_size: Side of the square input in pixels, to which all sizes are scaled; 0 is the model's own.

    Raises:
        ProtoRKDError: images do not become squares of one size, or are scaled in a way of its own.
    """
    values = values.get("image_processor", values)  # of a file that holds several processors
    _check_plain(values, path)
    side, resize_side, resize = _sizes(values, path)
    scale = (image_size or side) / side
    normalizes = values.get("do_normalize", True)
    return Preprocessing(
        image_size=image_size or side,
        mean=_triple(values, "image_mean", path) if normalizes else (0.0, 0.0, 0.0),
        std=_triple(values, "image_std", path) if normalizes else (1.0, 1.0, 1.0),
        interpolation=_interpolation(values, path),
        resize_size=round(resize_side * scale) if resize_side != side else 0,
        resize=resize,
    )


def _check_plain(values: Mapping[str, Any], path: Path) -> None:
    unplain = [key for key in _UNPLAIN if values.get(key)]
    if unplain:
        raise ProtoRKDError(
            f"{path} must make squares of one size of all images; got {', '.join(unplain)}. Take a model of fixed "
            "resolution, such as google/siglip2-base-patch16-224 in place of a NaFlex one."
        )
    if not values.get("do_resize", True):
        raise ProtoRKDError(f"{path} must resize images to one size; got do_resize false.")
    factor = values.get("rescale_factor", 1 / 255)
    if not values.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3 or values.get("offset"):
        raise ProtoRKDError(f"{path} must scale bytes to 0..1; got rescale_factor {factor}.")


def _sizes(values: Mapping[str, Any], path: Path) -> tuple[int, int, str]:
    """Return the side of the input, the side that is resized to before the crop, and how: shortest or squash."""
    size, crops = values.get("size"), values.get("do_center_crop", False)
    crop = _square(values.get("crop_size"))
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if isinstance(size, int) and (kind.startswith(_SHORT_SIDED) or (crops and not kind)):
        shortest = size
    if shortest and kind.startswith(_CONVNEXT):  # the size is that of the crop
        if shortest >= _CONVNEXT_SQUASHED:
            return shortest, shortest, "squash"
        return shortest, int(shortest / (values.get("crop_pct") or _CONVNEXT_CROP)), "shortest"
    is_squashed = shortest is None
    side = _square(size) if is_squashed else shortest
    if side and crops:
        return crop or side, side, "squash" if is_squashed else "shortest"
    if side and is_squashed:
        return side, side, "squash"
    raise ProtoRKDError(
        f"{path} must make squares of one size of all images; got size {size} and "
        f"crop_size {values.get('crop_size') if crops else None}. Take a model of fixed resolution."
    )


def _square(size: Any) -> int | None:
    """Return the side of a square: a number, or height and width that agree; None where it is no square."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping) and size.get("height") and size.get("height") == size.get("width"):
        return int(size["height"])
    return None


def _triple(values: Mapping[str, Any], key: str, path: Path) -> tuple[float, float, float]:
    numbers = values.get(key)
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise ProtoRKDError(f"{path} must have three numbers as {key}; got {numbers}.")
    red, green, blue = (float(number) for number in numbers)
    return red, green, blue


def _interpolation(values: Mapping[str, Any], path: Path) -> str:
    resample = values.get("resample", 2)
    name = _RESAMPLING.get(resample) if isinstance(resample, int) else None
    if name not in _USABLE:
        raise ProtoRKDError(f"{path} must resize by one of {', '.join(_USABLE)}; got resample {resample}.")
    return name
