"""Features that distill has encode-images make, of the images of its pairs and by the backbone of its student."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.plan import plan_stage
from pipeline.runner import run_within
from pipeline.stage import Context
from pipeline.store.store import Artifact
from stages.components.inputs.manifest_options import ManifestFormat
from stages.distill.feature_options import AUTO, check_feature_options
from stages.distill.fine_tuning import check_start

if TYPE_CHECKING:
    from stages.distill.options import DistillInputs, DistillParams, DistillRuntime

_MAKER = "encode-images"
_OF_IMAGES = ("image_root", "allow_outside", "image_identity", "packed", "init_from")


def prepare(
    inputs: "DistillInputs", params: "DistillParams", runtime: "DistillRuntime", context: Context
) -> "DistillInputs":
    """Make or find the features that ``--features auto`` asks for, before the training is planned.

    Raises:
        ProtoRKDError: options do not go together, the student has no weights to start from, or as encode-images.
    """
    if inputs.features != AUTO:
        return inputs
    check_start(params, inputs)
    check_feature_options(inputs, params)
    asked = _request(inputs, params, context)
    if context.peers.is_first:
        log.info("distill: --features auto: %s makes or finds the features of %s", _MAKER, asked["params"].backbone)
    stage = context.stages[_MAKER]
    shared = {name: getattr(runtime, name) for name in ("device", "workers", "max_bad_fraction")}
    run_within(stage, **asked, runtime=stage.runtime(**shared), context=dataclasses.replace(context, force=False))
    return inputs


def find_own_features(inputs: "DistillInputs", params: "DistillParams", context: Context) -> Artifact:
    """Find the features that `prepare` made.

    Raises:
        ProtoRKDError: they are not there, since nothing has been run yet; or as `prepare`.
    """
    stage = context.stages[_MAKER]
    asked = _request(inputs, params, context)
    found = plan_stage(stage, **asked, runtime=stage.runtime(), context=context).artifact
    if found is None:
        raise ProtoRKDError(
            f"--features auto must find its features to say more; none are made yet. The run makes them first; "
            f"{_MAKER} --dry-run says what that takes."
        )
    return context.store.fetch(found)


def _request(inputs: "DistillInputs", params: "DistillParams", context: Context) -> dict[str, Any]:
    """Return the options of encode-images for the images of the pairs, as encode-teacher read their manifest."""
    from stages.components.backbones.registry import published_name

    if not params.pretrained and inputs.init_from is None:
        raise ProtoRKDError(
            "--features auto must come with --pretrained or --init-from, the weights of the backbone that computes "
            f"them; got --student {params.student} without. Pass one, or an artifact of {_MAKER}."
        )
    record = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings").record
    names = [each.name for each in dataclasses.fields(ManifestFormat)]
    stage = context.stages[_MAKER]
    return {
        "params": stage.params(
            backbone=published_name(params.student, params.pretrained) if params.pretrained else params.student,
            image_size=params.image_size,
            pooling=params.pooling,
            **{name: record.params[name] for name in names if name in record.params},
        ),
        "inputs": stage.inputs(
            manifest=Path(record.inputs["manifest"].location),
            **{name: getattr(inputs, name) for name in _OF_IMAGES},
        ),
    }
