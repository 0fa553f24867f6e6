"""Options of a training that goes on from a whole student: which go with it, and what it takes from the student."""

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.options.declaration import Check, flag_of
from pipeline.stage import Context, Input
from stages.components.student.checkpoints import StudentWeights, find_checkpoint

if TYPE_CHECKING:
    from data_schemas.images.student_checkpoint import StudentConfig
    from stages.distill.options import DistillInputs, DistillParams, DistillSources

ALL = "all"
AUTO = "auto"
SCALE_FROM_STUDENT = 0.1

_LAST = re.compile("last:([1-9][0-9]*)")

UNFREEZE = Check(
    "be all, or last:N with N of 1 or more", lambda text: text in ("", ALL) or _LAST.fullmatch(text) is not None
)


def last_blocks(unfreeze: str) -> int:
    """Return the number of blocks that ``--unfreeze last:N`` names; 0 where the whole backbone is meant."""
    found = _LAST.fullmatch(unfreeze)
    return int(found[1]) if found else 0


def check_start(params: "DistillParams", inputs: "DistillInputs") -> None:
    """Refuse two sources of the first weights, and options of a backbone that trains where it does not.

    Raises:
        ProtoRKDError: more than one source is named, options do not go together, or a student is named without what
            of it trains.
    """
    given = {
        "--pretrained": bool(params.pretrained),
        "--init-from": inputs.init_from is not None,
        "--from-student": inputs.from_student is not None,
    }
    sources = [flag for flag, is_given in given.items() if is_given]
    if len(sources) > 1:
        raise ProtoRKDError(f"Only one of {' and '.join(sources)} must be given; got both. Leave one out.")
    if params.freeze_backbone:
        of_backbone = {
            "--unfreeze": params.unfreeze,
            "--lora": params.lora,
            "--backbone-lr-scale": params.backbone_lr_scale,
        }
        for flag, value in of_backbone.items():
            if value:
                raise ProtoRKDError(
                    f"{flag} must be left out with --freeze-backbone, which trains no backbone; got {value}."
                )
    if params.lora and params.unfreeze:
        raise ProtoRKDError(
            f"Only one of --lora and --unfreeze must be given; got {params.lora} and {params.unfreeze}. Adapters "
            "train in place of the backbone's weights: leave one out."
        )
    if params.lora and not sources:
        raise ProtoRKDError(
            "--lora must come with weights to adapt: --from-student, --pretrained or --init-from; got none. A backbone "
            "of random weights trains whole."
        )
    if inputs.from_student is not None and not (params.unfreeze or params.lora):
        raise ProtoRKDError(
            "--from-student must come with --unfreeze or --lora, which part of its backbone trains; got neither. Pass "
            "--unfreeze last:2 or all, or for a transformer --lora 16; a head alone is trained by --features."
        )


def find_start(params: "DistillParams", inputs: "DistillInputs", context: Context) -> Input[StudentWeights] | None:
    """Find the student that ``--from-student`` names; None where none is named.

    Raises:
        ProtoRKDError: there is no such student, it takes no images, or an option says that it is another.
    """
    if inputs.from_student is None:
        return None
    student = find_checkpoint(inputs.from_student, store=context.store, flag="--from-student")
    if not student.config.backbone:
        raise ProtoRKDError(
            f"--from-student must name a student with a backbone; the features of {student.weights.parent} came from "
            "another tool. Distill on features of encode-images, which keeps the backbone."
        )
    if params.feature_noise and student.config.head is None:
        raise ProtoRKDError(
            f"--feature-noise must come with a student whose head was found on features; got {params.feature_noise:g} "
            f"for {student.weights.parent}, which was trained on images. Leave it out."
        )
    known = _of_student(student.config)
    for field in dataclasses.fields(params):
        if field.name in known and (value := getattr(params, field.name)) not in (field.default, known[field.name]):
            raise ProtoRKDError(
                f"{flag_of(field)} must be left out with --from-student, whose own is {known[field.name]}; got {value}."
            )
    return Input(student.identity, str(student.folder.resolve()), value=student)


def settle_start(params: "DistillParams", student: StudentWeights) -> "DistillParams":
    """Record what the student is and how it is tuned, whether or not that was said."""
    lr_scale = 1.0 if params.lora else SCALE_FROM_STUDENT
    return dataclasses.replace(
        params,
        **_of_student(student.config),
        backbone_lr_scale=params.backbone_lr_scale or lr_scale,
        freeze_batchnorm="backbone" if params.freeze_batchnorm == AUTO else params.freeze_batchnorm,
        feature_noise=params.feature_noise or _recorded(student).get("feature_noise", 0.0),
    )


def note_seen_images(params: "DistillParams", student: StudentWeights) -> None:
    """Say so where validation looks at images that the student was trained on, for its figures are too good then."""
    before = _recorded(student)
    if not params.validation_fraction or not before:
        return
    fraction, seed = before.get("validation_fraction", 0.0), before.get("seed", 0)
    if fraction < params.validation_fraction or seed != params.seed:
        log.info(
            "distill: the student may have been trained on images that are held out now: it held out %g of its own by "
            "seed %d; pass the same --validation-fraction and --seed for figures that compare",
            fraction,
            seed,
        )


def start_of(sources: "DistillSources") -> StudentWeights | None:
    """Return the student that training goes on from, or None."""
    return None if sources.from_student is None else sources.from_student.value


def origins(sources: "DistillSources") -> tuple[str, ...]:
    """Return the digest of the artifact that training goes on from, which holds on to its backbone; none without."""
    start = start_of(sources)
    return () if start is None or start.artifact is None else (start.artifact.record.digest,)


def _recorded(student: StudentWeights) -> Mapping[str, Any]:
    """Return the parameters that a student was trained with; none of one whose training is not finished."""
    return {} if student.artifact is None else student.artifact.record.params


def _of_student(config: "StudentConfig") -> dict[str, Any]:
    return {
        "student": config.backbone,
        "image_size": config.preprocessing.image_size,
        "pooling": config.pooling,
        "projection_layers": config.projection_layers,
    }
