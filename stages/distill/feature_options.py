"""Options of a training on cached features: which go with it, and which go with it alone."""

import dataclasses
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.declaration import flag_of

if TYPE_CHECKING:
    from stages.distill.options import DistillInputs, DistillParams, DistillRuntime

_OF_IMAGES = {
    "image_root", "allow_outside", "image_identity", "packed", "init_from", "student", "pretrained",
    "freeze_backbone", "image_size", "pooling", "projection_layers", "augmentation", "crop_min_scale", "compile",
    "checkpoint_gradients", "from_student", "unfreeze", "backbone_lr_scale",
}  # fmt: skip
_OF_FEATURES = {"head", "head_width", "head_dropout", "feature_noise", "feature_mixup"}
_SETTLED = {"student": "", "augmentation": "none"}  # what the record of a training on features says
_LINEAR = "linear"


def check_feature_options(inputs: "DistillInputs", params: "DistillParams") -> None:
    """Refuse options of images beside ``--features``, and options of features without it.

    Raises:
        ProtoRKDError: one is not at its default, or the head has no hidden layer that an option is for.
    """
    if inputs.features is None:
        for flag, value in _changed(params, _OF_FEATURES):
            raise ProtoRKDError(
                f"{flag} must come with --features, the cached features that a head is trained on; got {value} "
                "without. Name an artifact of encode-images, or leave it out."
            )
        return
    _refuse_of_images(inputs)
    _refuse_of_images(params)
    if params.head == _LINEAR and (params.head_width or params.head_dropout):
        raise ProtoRKDError(
            "--head-width and --head-dropout must come with a --head that has a hidden layer: mlp, gated or residual; "
            f"got {params.head_width} and {params.head_dropout:g} with linear. Choose another head, or leave them out."
        )


def check_feature_runtime(runtime: "DistillRuntime") -> None:
    """Refuse settings of speed that are of use for backbones alone.

    Raises:
        ProtoRKDError: one is not at its default.
    """
    _refuse_of_images(runtime)


def _refuse_of_images(options: Any) -> None:
    for flag, value in _changed(options, _OF_IMAGES):
        raise ProtoRKDError(
            f"{flag} must be left out with --features, for no image is opened and no backbone runs; got {value}."
        )


def _changed(options: Any, names: set[str]) -> list[tuple[str, object]]:
    """List the flags and values of the named options that are neither at their default nor as they are recorded."""
    values = ((field, getattr(options, field.name)) for field in dataclasses.fields(options) if field.name in names)
    return [
        (flag_of(field), value)
        for field, value in values
        if value not in (field.default, _SETTLED.get(field.name, field.default))
    ]
