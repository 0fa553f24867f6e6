"""Finds and identifies what evaluation is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.student_checkpoint import CONFIG_NAME, WEIGHTS_NAME
from pipeline.stage import Context, Input
from pipeline.store import Artifact
from stages.evaluate.checkpoints import LAST, LoadedStudent, finished_checkpoints
from stages.evaluate.prompts import fill
from stages.evaluate.sets import (
    check_names,
    identify_labelled,
    identify_retrieval,
    identify_splits,
    read_labelled_set,
    read_labelled_splits,
    read_retrieval_set,
)
from stages.teacher_identity import identify_teacher

if TYPE_CHECKING:
    from stages.evaluate.stage import EvaluateInputs, EvaluateParams


def find_inputs(inputs: "EvaluateInputs", params: "EvaluateParams", context: Context) -> Mapping[str, Input]:
    """Identify student, teacher and sets; sets under names such as ``retrieval test``.

    Raises:
        ProtoRKDError: nothing is to be measured, something is missing, or the teacher is not the student's.
    """
    if not (inputs.retrieval or inputs.zero_shot or inputs.knn):
        raise ProtoRKDError("evaluate must be given a set; got none. Pass --retrieval, --zero-shot or --knn.")
    for template in params.template:
        fill(template, "")
    digests = context.file_digests
    artifact = context.store.resolve(inputs.student, stage="distill", flag="--student")
    artifact.require_whole((WEIGHTS_NAME, CONFIG_NAME), read=True)
    [student] = finished_checkpoints(artifact, LAST)
    found = {"student": Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=student)}
    if inputs.retrieval or inputs.zero_shot:
        found["teacher"] = _find_teacher(inputs.teacher, student, context)
    retrieval = [
        read_retrieval_set(path, form=params, file_digests=digests, image_root=inputs.image_root)
        for path in inputs.retrieval
    ]
    zero_shot = [read_labelled_set(path, file_digests=digests) for path in inputs.zero_shot]
    splits = [read_labelled_splits(path, file_digests=digests) for path in inputs.knn]
    names = {
        "retrieval": [each.name for each in retrieval],
        "zero_shot": [each.folder.name for each in zero_shot],
        "knn": [each.test.folder.name for each in splits],
    }
    for task in names.values():
        check_names(task)
    found |= {f"retrieval {each.name}": identify_retrieval(each) for each in retrieval}
    found |= {f"zero_shot {each.folder.name}": identify_labelled(each) for each in zero_shot}
    found |= {f"knn {each.test.folder.name}": identify_splits(each) for each in splits}
    return found


def _find_teacher(name: str | None, student: LoadedStudent, context: Context) -> Input:
    config = student.config
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"Retrieval and zero-shot must have a student as wide as its teacher; got {config.embedding_dim} and "
            f"{config.teacher.dim}. Distil without --projection-dim."
        )
    name = name or _recorded_teacher(student.artifact, context)
    teacher = identify_teacher(name, file_digests=context.file_digests)
    if teacher.digest != config.teacher.identity:
        raise ProtoRKDError(
            f"--teacher must be the one that the student was distilled from ({config.teacher.identity[:12]}); got "
            f"{name} ({teacher.digest[:12]}), whose bytes differ. Pass the original, or run encode-teacher and distill "
            "with this one."
        )
    return teacher


def teacher_name(student: LoadedStudent, teacher: Input | None, context: Context) -> str:
    """What people call the teacher: the end of its path, its name on the hub, or a piece of its identity."""
    location = teacher.location if teacher else _recorded_location(student.artifact, context)
    if location is None:
        return student.config.teacher.identity[:12]
    path = Path(location)
    return path.name if path.is_file() else "/".join(path.parts[-2:])


def _recorded_teacher(artifact: Artifact | None, context: Context) -> str:
    assert artifact is not None
    location = _recorded_location(artifact, context)
    if location is None:
        raise ProtoRKDError(
            f"--teacher must be given, for {context.store.root} no longer has the embeddings that {artifact.name} was "
            "distilled from."
        )
    return location


def _recorded_location(artifact: Artifact | None, context: Context) -> str | None:
    assert artifact is not None
    wanted = artifact.record.inputs["embeddings"].digest
    for embeddings in context.store.artifacts("encode-teacher"):
        if embeddings.record.digest == wanted:
            return embeddings.record.inputs["teacher"].location
    return None
