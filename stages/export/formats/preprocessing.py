"""Describe the student's preprocessing of images as JSON, for people who do it themselves."""

from typing import Any

from data_schemas.images.student_checkpoint import Preprocessing

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # as Pillow counts


def describe(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing step by step in words, and in the keys of transformers' image processors."""
    size, side = preprocessing.image_size, preprocessing.resize_size or preprocessing.image_size
    squashes = preprocessing.resize == "squash"
    resized = (
        f"resize to {side} x {side} pixels, whatever the ratio of the sides"
        if squashes
        else f"resize the short side to {side} pixels, the long side in proportion and rounded down"
    )
    return {
        "steps": [
            "decode to 8-bit RGB; turn upright by the EXIF orientation; what is transparent becomes white; of 16 bits "
            "the upper 8; of an animation the first frame",
            f"{resized}, by {preprocessing.interpolation} interpolation with antialiasing, as Pillow does",
            f"crop {size} x {size} pixels from the centre",
            "divide by 255, subtract the mean, divide by the standard deviation",
            "order as (batch, channel, row, column)",
        ],
        "do_resize": True,
        "size": {"height": side, "width": side} if squashes else {"shortest_edge": side},
        "resample": _RESAMPLE[preprocessing.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": True,
    }
