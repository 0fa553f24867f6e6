"""Find the same teacher again, by its identity, to embed new captions; one known by its vectors alone cannot."""

from dataclasses import replace
from pathlib import Path

from data_schemas.artifact_record import InputRecord
from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.vectors import VectorOptions, VectorSource, identify_vectors
from stages.components.teacher.identity import TeacherSource, former_digest, identify_teacher

_VECTORS = "vectors"  # among the parts of a teacher that is known by its vectors alone


def find_recorded_teacher(
    name: str | None, identity: str, *, what: str, trust_code: bool, context: Context
) -> Input[TeacherSource]:
    """Find a teacher by the given name, or where encode-teacher last found it, and refuse any other teacher.

    Args:
        name: Name of the teacher as the user gave it; None takes its last location.
        identity: Identity that the teacher must have.
        what: Clause for messages that says what was made with it, such as ``the student was distilled from``.
        trust_code: Whether its Python code may run, which must be as it was then.
        context: Holds the store and the remembered digests.

    Raises:
        ProtoRKDError: it cannot be found, or is another teacher, or was loaded otherwise.
    """
    recorded = _recorded(identity, context)
    if recorded is not None and _VECTORS in recorded.parts:
        raise ProtoRKDError(
            f"The teacher that {what} must be here to embed texts; of it there are only vectors that another tool "
            f"computed ({recorded.location}). Have that tool embed what `protorkd prompts` writes, for evaluate "
            "--caption-vectors, or ask for what needs no text: --knn or --linear-probe of evaluate, --picture of "
            "search, --format onnx of export."
        )
    name = name or (None if recorded is None else recorded.location)
    if name is None:
        raise ProtoRKDError(f"--teacher must be given, for {context.store} no longer has the embeddings that {what}.")
    teacher = identify_teacher(name, file_digests=context.file_digests, trust_code=trust_code)
    if teacher.digest != identity:
        if former_digest(teacher) == identity:
            raise ProtoRKDError(
                f"--teacher must be loaded as the one that {what}; got {name}, the same files, whose weights were then "
                "taken in half precision, or not at all. They are whole now: run encode-teacher and distill again."
            )
        other = identify_teacher(name, file_digests=context.file_digests, trust_code=not trust_code)
        if other.digest == identity:
            raise ProtoRKDError(
                "--trust-remote-code must be as it was for encode-teacher; "
                f"{'leave it out' if trust_code else 'pass it'} for {name}."
            )
        raise ProtoRKDError(
            f"--teacher must be the one that {what} ({identity[:12]}); got {name} ({teacher.digest[:12]}), whose bytes "
            "differ. Pass the original, or run encode-teacher and distill with this one."
        )
    return teacher


def recorded_location(identity: str, context: Context) -> str | None:
    """Return the location where encode-teacher last found a teacher; None if the store does not know it."""
    recorded = _recorded(identity, context)
    return None if recorded is None else recorded.location


def name_of_location(location: str) -> str:
    """Name a teacher for reports by where it lies: the end of its path, or its name on the hub."""
    path = Path(location)
    return path.name if path.is_file() else "/".join(path.parts[-2:]).partition("@")[0]


def identify_by_vectors(
    path: Path, options: VectorOptions, *, name: str, file_digests: FileDigests
) -> Input[VectorSource]:
    """Identify a teacher by vectors of captions that another tool computed with it.

    Args:
        path: Vectors.
        options: Columns of keys and vectors.
        name: What computed them, for people; "" gives their place.
        file_digests: Remembered digests.

    Raises:
        ProtoRKDError: there are no such vectors.
    """
    from data_schemas.vector_sources.part import CAPTION_KEYS

    found = identify_vectors(path, options.vector_columns(CAPTION_KEYS), file_digests=file_digests)
    digest = hash_json([found.digest, options.vector_column])
    return replace(found, digest=digest, location=name or found.location, parts={**found.parts, _VECTORS: found.digest})


def _recorded(identity: str, context: Context) -> InputRecord | None:
    """Find a teacher among the inputs of encode-teacher, the newest first."""
    teachers = (artifact.record.inputs["teacher"] for artifact in reversed(context.store.artifacts("encode-teacher")))
    return next((teacher for teacher in teachers if teacher.digest == identity), None)
