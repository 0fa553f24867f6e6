"""Find the same teacher again, by its identity, to embed new captions."""

from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context, Input
from stages.components.teacher.identity import TeacherSource, former_digest, identify_teacher


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
    name = name or recorded_location(identity, context)
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
    for embeddings in reversed(context.store.artifacts("encode-teacher")):
        teacher = embeddings.record.inputs["teacher"]
        if teacher.digest == identity:
            return teacher.location
    return None
