"""Options of a training that goes on from a whole student: which go with it, and what it takes from the student."""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.declaration import Check, flag_of
from pipeline.stage import Context, Input
from stages.components.student.checkpoints import StudentWeights, find_checkpoint

if TYPE_CHECKING:
    from data_schemas.images.student_checkpoint import StudentConfig
    from stages.distill.options import DistillInputs, DistillParams, DistillSources

ALL = "all"
SCALE_FROM_STUDENT = 0.1

_LAST = re.compile("last:([1-9][0-9]*)")

UNFREEZE = Check(
    "be all, or last:N with N of 1 or more", lambda text: text in ("", ALL) or _LAST.fullmatch(text) is not None
)


def last_blocks(unfreeze: str) -> int:
    """Return the number of blocks that ``--unfreeze last:N`` names; 0 where the whole backbone is meant."""
    found = _LAST.fullmatch(unfreeze)
    return int(found[1]) if found else 0


def lr_scale(params: "DistillParams", *, from_student: bool) -> float:
    """Settle the factor on the learning rate of the backbone's parameters."""
    return params.backbone_lr_scale or (SCALE_FROM_STUDENT if from_student else 1.0)


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
        for flag, value in (("--unfreeze", params.unfreeze), ("--backbone-lr-scale", params.backbone_lr_scale)):
            if value:
                raise ProtoRKDError(
                    f"{flag} must be left out with --freeze-backbone, which trains no backbone; got {value}."
                )
    if inputs.from_student is not None and not params.unfreeze:
        raise ProtoRKDError(
            "--from-student must come with --unfreeze, which part of its backbone trains; got none. Pass --unfreeze "
            "last:2 or all; a head alone is trained by --features."
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
    known = _of_student(student.config)
    for field in dataclasses.fields(params):
        if field.name in known and (value := getattr(params, field.name)) not in (field.default, known[field.name]):
            raise ProtoRKDError(
                f"{flag_of(field)} must be left out with --from-student, whose own is {known[field.name]}; got {value}."
            )
    return Input(student.identity, str(student.folder.resolve()), value=student)


def settle_start(params: "DistillParams", student: StudentWeights) -> "DistillParams":
    """Record what the student is, whether or not that was said."""
    return dataclasses.replace(params, **_of_student(student.config))


def start_of(sources: "DistillSources") -> StudentWeights | None:
    """Return the student that training goes on from, or None."""
    return None if sources.from_student is None else sources.from_student.value


def origins(sources: "DistillSources") -> tuple[str, ...]:
    """Return the digest of the artifact that training goes on from, which holds on to its backbone; none without."""
    start = start_of(sources)
    return () if start is None or start.artifact is None else (start.artifact.record.digest,)


def _of_student(config: "StudentConfig") -> dict[str, Any]:
    return {
        "student": config.backbone,
        "image_size": config.preprocessing.image_size,
        "pooling": config.pooling,
        "projection_layers": config.projection_layers,
    }
