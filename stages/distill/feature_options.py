"""Options of a training on cached features: which go with it, and which go with it alone."""

import dataclasses
from collections.abc import Set
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.declaration import flag_of
from stages.distill.loss_spec import READ_FEATURES, parse_losses

if TYPE_CHECKING:
    from stages.distill.options import DistillInputs, DistillParams, DistillRuntime

AUTO, NEWEST = "auto", "newest"
"""Words of ``--features`` in place of an artifact: it is made if need be; it is the newest."""

_OF_FEATURES = {"head", "head_width", "head_dropout", "feature_noise", "feature_mixup"}
_OF_OWN_FEATURES = {  # read by --features auto
    "image_root", "allow_outside", "image_identity", "packed", "init_from", "student", "pretrained", "freeze_backbone",
    "image_size", "pooling",
}  # fmt: skip
_OF_IMAGES = _OF_OWN_FEATURES | {
    "projection_layers", "augmentation", "crop_min_scale", "compile", "checkpoint_gradients", "from_student",
    "unfreeze", "lora", "backbone_lr_scale", "freeze_batchnorm",
}  # fmt: skip
_SETTLED = {"student": "", "augmentation": "none"}  # what the record of a training on features says
_LINEAR = "linear"


def check_feature_options(inputs: "DistillInputs", params: "DistillParams") -> None:
    """Refuse options of images beside ``--features``, and options of features without it.

    Raises:
        ProtoRKDError: one is not at its default, an objective of features is asked for without, or the head has no
            hidden layer that an option is for.
    """
    if inputs.features is None:
        of_features = _OF_FEATURES if inputs.from_student is None else _OF_FEATURES - {"feature_noise"}
        for flag, value in _changed(params, of_features):
            raise ProtoRKDError(
                f"{flag} must come with --features, the cached features that a head is trained on; got {value} "
                "without. Name an artifact of encode-images, or leave it out."
            )
        for name in sorted(READ_FEATURES.intersection(parse_losses(params.loss))):
            raise ProtoRKDError(
                f"--loss {name} must come with --features, whose likeness it keeps; got none. Name an artifact of "
                "encode-images, or leave the objective out."
            )
        return
    read = _OF_OWN_FEATURES if inputs.features == AUTO else set()
    _refuse_of_images(inputs, but=read)
    _refuse_of_images(params, but=read)
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


def without_images(params: "DistillParams") -> "DistillParams":
    """Return the parameters of a training on features, in which those of images and backbone have no part."""
    defaults: dict[str, Any] = {
        each.name: each.default for each in dataclasses.fields(params) if each.name in _OF_OWN_FEATURES
    }
    return dataclasses.replace(params, **{**defaults, **_SETTLED})


def _refuse_of_images(options: Any, *, but: Set[str] = frozenset()) -> None:
    for flag, value in _changed(options, _OF_IMAGES - but):
        raise ProtoRKDError(
            f"{flag} must be left out with --features, for no image is opened and no backbone runs; got {value}."
        )


def _changed(options: Any, names: Set[str]) -> list[tuple[str, object]]:
    """List the flags and values of the named options that are neither at their default nor as they are recorded."""
    values = ((field, getattr(options, field.name)) for field in dataclasses.fields(options) if field.name in names)
    return [
        (flag_of(field), value)
        for field, value in values
        if value not in (field.default, _SETTLED.get(field.name, field.default))
    ]
