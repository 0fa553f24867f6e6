"""Finds and identifies what evaluation is given: the student's checkpoints, its teacher, its images, and the sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import read_pairs
from data_schemas.student_checkpoint import CONFIG_NAME
from pipeline.fingerprint import hash_json
from pipeline.remote.object_store import url_of
from pipeline.stage import Context, Input
from pipeline.store.store import Artifact
from stages.components.images.opening import open_images
from stages.components.images.packed_image_set import find_pack, take_packed
from stages.components.student.checkpoints import StudentWeights, finished_checkpoints
from stages.components.teacher.recorded import find_recorded_teacher, recorded_location
from stages.evaluate.sets.evaluation_sets import RequestedSet, UnreadSet
from stages.evaluate.sets.requested_sets import find_entries
from stages.evaluate.task_names import NEED_TEACHER

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateInputs, EvaluateParams

STUDENT, TEACHER, TRAINING_PICTURES, ABSENT_SETS = "student", "teacher", "training pictures", "absent sets"


@dataclass(frozen=True)
class Checkpoints:
    """The student's weights that are to be measured.

    Args:
        students: in the order of their epochs; the last is shown in full.
        artifact: that they lie in.
    """

    students: tuple[StudentWeights, ...]
    artifact: Artifact


def find_inputs(inputs: "EvaluateInputs", params: "EvaluateParams", context: Context) -> Mapping[str, Input]:
    """Identify student, teacher, training images and sets; sets under names such as ``retrieval test``.

    Raises:
        ProtoRKDError: nothing is to be measured, or the student or its teacher is missing or another. A set that cannot
            be read is among the inputs all the same, as an `UnreadSet`.
    """
    artifact = context.store.resolve(inputs.student, stage="distill", flag="--student")
    artifact.require_whole((CONFIG_NAME,), read=True)
    students = tuple(finished_checkpoints(artifact, params.checkpoints))
    found = {
        STUDENT: Input(
            digest=artifact.record.digest,
            location=str(artifact.path.resolve()),
            value=Checkpoints(students=students, artifact=artifact),
        )
    }
    found |= find_sets(inputs, params, student=students[-1], context=context)
    if params.overlap:
        found[TRAINING_PICTURES] = _training_images(artifact, context)
    return found


def find_sets(
    inputs: "EvaluateInputs", params: "EvaluateParams", *, student: StudentWeights, context: Context
) -> dict[str, Input]:
    """Identify the sets, and the teacher where a task needs it.

    Raises:
        ProtoRKDError: as `find_inputs`.
    """
    entries, absent = find_entries(inputs, params, context)
    found = {name: entry.identified() for name, entry in entries.items()}
    if any(NEED_TEACHER & set(entry.tasks) for entry in entries.values()):
        found[TEACHER] = _find_teacher(inputs, student, context)
    if absent:
        names = hash_json(sorted(each.name for each in absent))
        found[ABSENT_SETS] = Input(digest=names, location=str(inputs.eval_data_dir), value=tuple(absent))
    return found


def count_images(inputs: Mapping[str, Input]) -> dict[str, int]:
    """How many checkpoints are to be measured, on how many sets, with how many images in all."""
    entries = [entry.value for entry in inputs.values() if isinstance(entry.value, RequestedSet)]
    readable = [entry for entry in entries if not isinstance(entry.found, UnreadSet)]
    images = {found.digest: len(found.value.paths) for entry in readable for found in entry.images()}
    return {
        "checkpoints": len(inputs[STUDENT].value.students),
        "sets": len(readable),
        "pictures": sum(images.values()),
    }


def teacher_name(identity: str, teacher: Input | None, context: Context) -> str:
    """What people call the teacher: the end of its path, its name on the hub, or a piece of its identity."""
    location = teacher.location if teacher else recorded_location(identity, context)
    if location is None:
        return identity[:12]
    path = Path(location)
    return path.name if path.is_file() else "/".join(path.parts[-2:]).partition("@")[0]


def _find_teacher(inputs: "EvaluateInputs", student: StudentWeights, context: Context) -> Input:
    config = student.config
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"Retrieval and zero-shot must have a student as wide as its teacher; got {config.embedding_dim} and "
            f"{config.teacher.dim}. Distil without --projection-dim, or pass --task knn or --task linear-probe."
        )
    return find_recorded_teacher(
        inputs.teacher,
        config.teacher.identity,
        what="the student was distilled from",
        trust_code=inputs.trust_remote_code,
        context=context,
    )


def _training_images(artifact: Artifact, context: Context) -> Input:
    """The images that the student was distilled from, or a sentence where they are not to be had any more."""
    images, wanted = artifact.record.inputs["images"], artifact.record.inputs["embeddings"].digest
    root = Path(images.location)
    known = [found for found in context.store.artifacts("encode-teacher") if found.record.digest == wanted]
    try:
        pack = find_pack(images.digest, images.location, context.store)
        if pack is None and not (root.is_dir() or url_of(root)):
            missing = f"{root} is gone"
        elif not known:
            missing = f"{context.store} no longer has their list"
        else:
            paths = read_pairs(context.store.fetch(known[0]).path)["image"]
            if pack is not None:
                return take_packed(pack, paths.combine_chunks(), manifest=known[0].record.inputs["manifest"].location)
            value = open_images(root, paths.to_pylist(), context.file_digests)
            return Input(digest=images.digest, location=images.location, value=value)
    except ProtoRKDError as error:  # the list or the pack is damaged
        missing = str(error)
    return Input(digest=hash_json("absent"), location=images.location, value=missing)
