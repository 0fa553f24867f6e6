"""Find and identify the inputs of evaluation: the student's checkpoints, teacher, training images, and the sets."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import CONFIG_NAME
from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input
from stages.components.calibration.calibration import identify_calibration
from stages.components.inputs.training_images import find_training_images
from stages.components.inputs.vectors import VectorSource, check_keys, identify_vectors, width_of
from stages.components.student.checkpoints import StudentWeights, finished_checkpoints
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.prompts import find_query_prompt
from stages.components.teacher.recorded import find_recorded_teacher, name_of_location, recorded_location
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.sets.caption_texts import texts_to_embed
from stages.evaluate.sets.datasets import Absent
from stages.evaluate.sets.evaluation_sets import RequestedSet
from stages.evaluate.sets.requested_sets import read_requested_sets
from stages.evaluate.sources import Checkpoints, EvaluateSources
from stages.evaluate.task_names import NEED_TEACHER


def find_inputs(inputs: EvaluateInputs, params: EvaluateParams, context: Context) -> EvaluateSources:
    """Identify student, sets, teacher and training images.

    Raises:
        ProtoRKDError: there is nothing to measure, or the student or its teacher is missing, or the teacher is another.
            A set that cannot be read raises nothing; it is among the sources as an `UnreadSet`.
    """
    artifact = context.store.resolve(inputs.student, stage="distill", flag="--student")
    artifact.require_whole((CONFIG_NAME,), read=True)
    students = tuple(finished_checkpoints(artifact, params.checkpoints))
    requested = read_requested_sets(inputs, params, context)
    teacher = find_teacher(inputs, params, students[-1], requested.readable.values(), context)
    return EvaluateSources(
        student=Input(
            digest=artifact.record.digest,
            location=str(artifact.path.resolve()),
            value=Checkpoints(students=students, artifact=artifact),
        ),
        sets={key: each.identified() for key, each in requested.readable.items()},
        unread={key: each.identified() for key, each in requested.unread.items()},
        teacher=teacher,
        query_prompt=query_prompt_of(inputs, teacher, requested.readable.values()),
        absent=_identify_absent(requested.absent, inputs) if requested.absent else None,
        training=find_training_images(artifact, context) if params.overlap else None,
        image_vectors=find_image_vectors(inputs, params, students[-1], context),
        calibration=_identify_calibrations(students, params) if params.calibrate else None,
    )


def find_teacher(
    inputs: EvaluateInputs,
    params: EvaluateParams,
    student: StudentWeights,
    sets: Iterable[RequestedSet],
    context: Context,
) -> Input[TeacherSource | VectorSource] | None:
    """Identify the student's teacher, or the vectors in its place; None where no task on the sets needs it.

    Raises:
        ProtoRKDError: the teacher is missing, is another, or is not as wide as its student; vectors lack a text.
    """
    sets = list(sets)
    if not any(NEED_TEACHER & set(each.tasks) for each in sets):
        return None
    config = student.config
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"Retrieval and zero-shot must have a student as wide as its teacher; got {config.embedding_dim} and "
            f"{config.teacher.dim}. Distil without --projection-dim, or pass --task knn or --task linear-probe."
        )
    if inputs.caption_vectors is not None:
        return _find_caption_vectors(inputs, params, student, sets, context)
    return find_recorded_teacher(
        inputs.teacher,
        config.teacher.identity,
        what="the student was distilled from",
        trust_code=inputs.trust_remote_code,
        context=context,
    )


def find_image_vectors(
    inputs: EvaluateInputs, params: EvaluateParams, student: StudentWeights, context: Context
) -> Input[VectorSource] | None:
    """Identify the features of the sets' images that another tool computed; None where none are given.

    Raises:
        ProtoRKDError: there are no such vectors, or the student embeds images itself.
    """
    if inputs.image_vectors is None:
        return None
    config = student.config
    if config.head is None or config.backbone_digest:
        raise ProtoRKDError(
            "--image-vectors must go with a student whose features came from encode-images --vectors; got one of "
            f"{config.backbone}, which embeds images itself. Leave it out."
        )
    from data_schemas.vector_sources.part import IMAGE_KEYS

    return _identify_vectors(inputs.image_vectors, params, IMAGE_KEYS, flag="--image-vectors", context=context)


def _find_caption_vectors(
    inputs: EvaluateInputs,
    params: EvaluateParams,
    student: StudentWeights,
    sets: Iterable[RequestedSet],
    context: Context,
) -> Input[VectorSource]:
    """Identify vectors in place of the teacher, which must be of its width and of every text that is needed."""
    from data_schemas.vector_sources.part import TEXT_KEYS

    for flag, value in (("--teacher", inputs.teacher), ("--query-prompt-name", inputs.query_prompt_name)):
        if value is not None:
            raise ProtoRKDError(
                f"--caption-vectors must go without {flag}, for they are in the teacher's place; got {value}. Leave "
                "one out."
            )
    path = cast("Path", inputs.caption_vectors)
    vectors = _identify_vectors(path, params, TEXT_KEYS, flag="--caption-vectors", context=context)
    width, dim = width_of(vectors.value), student.config.teacher.dim
    if width != dim:
        raise ProtoRKDError(
            f"--caption-vectors must be by the teacher that the student was distilled from, {dim} wide; got vectors of "
            f"{width} in {path}. Embed the texts with that teacher."
        )
    remedy = "`protorkd prompts` writes the texts of a set: embed them all as the captions of the training were."
    check_keys(vectors.value, texts_to_embed(sets), noun="texts of the sets", remedy=remedy)
    return vectors


def _identify_vectors(
    path: Path, params: EvaluateParams, known: tuple[str, ...], *, flag: str, context: Context
) -> Input[VectorSource]:
    """Identify vectors by their files and by the columns that are read."""
    columns = params.vector_columns(known)
    found = identify_vectors(path, columns, file_digests=context.file_digests, flag=flag)
    return replace(found, digest=hash_json([found.digest, found.value.key, columns.vector]))


def query_prompt_of(
    inputs: EvaluateInputs,
    teacher: Input[TeacherSource | VectorSource] | None,
    sets: Iterable[RequestedSet],
) -> Input[str] | None:
    """Identify the prompt of captions that look for their image; None where none is asked for.

    Raises:
        ProtoRKDError: the teacher has no such prompt, or no set is one to retrieve on.
    """
    if inputs.query_prompt_name is None:
        return None
    if teacher is None or not any("retrieval" in each.tasks for each in sets):
        raise ProtoRKDError(
            "--query-prompt-name must go with a set of --retrieval, the only task with queries in words; got none that "
            "can be read. Pass one, or leave the prompt out."
        )
    return find_query_prompt(inputs.query_prompt_name, cast("Input[TeacherSource]", teacher))  # vectors go without


def count_images(sources: EvaluateSources) -> dict[str, int]:
    """Count checkpoints, sets that can be read, and the distinct images in all of them."""
    sets = [each.value for each in sources.sets.values()]
    num_images = {images.digest: len(images.value.paths) for each in sets for images in each.images()}
    return {
        "checkpoints": len(sources.student.value.students),
        "sets": len(sets),
        "pictures": sum(num_images.values()),
    }


def teacher_name(identity: str, teacher: Input[TeacherSource | VectorSource] | None, context: Context) -> str:
    """Name the teacher for reports: the end of its path, its name on the hub, or the start of its identity."""
    if teacher is None or isinstance(teacher.value, VectorSource):
        location = recorded_location(identity, context)
    else:
        location = teacher.location
    return identity[:12] if location is None else name_of_location(location)


def _identify_calibrations(students: Sequence[StudentWeights], params: EvaluateParams) -> Input[None]:
    kinds = sorted(set(params.calibrate))
    pairs = [(student, kind) for student in students for kind in kinds]
    parts = {f"{kind} of {student.name}": identify_calibration(student, kind).digest for student, kind in pairs}
    return Input(digest=hash_json(parts), parts=parts, value=None)


def _identify_absent(absent: tuple[Absent, ...], inputs: EvaluateInputs) -> Input[tuple[Absent, ...]]:
    names = hash_json(sorted(each.name for each in absent))
    return Input(digest=names, location=str(inputs.eval_data_dir), value=absent)
