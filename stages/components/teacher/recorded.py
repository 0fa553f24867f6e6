"""The teacher of a student or of captions, found again for new captions: the very one, by its identity."""

from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context, Input
from stages.components.teacher.identity import TeacherSource, identify_teacher


def find_recorded_teacher(
    name: str | None, identity: str, *, what: str, trust_code: bool, context: Context
) -> Input[TeacherSource]:
    """Find a teacher by the name that is given, or where encode-teacher last found it, and refuse any other.

    Args:
        name: as a user gave it, or None.
        identity: that it must have.
        what: was made with it, as in ``the student was distilled from``.
        trust_code: let Python code that comes with it run, as it was when it made that.
        context: the store.

    Raises:
        ProtoRKDError: it is not to be found, or is another.
    """
    name = name or recorded_location(identity, context)
    if name is None:
        raise ProtoRKDError(f"--teacher must be given, for {context.store} no longer has the embeddings that {what}.")
    teacher = identify_teacher(name, file_digests=context.file_digests, trust_code=trust_code)
    if teacher.digest != identity:
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
    """Where encode-teacher last found a teacher."""
    for embeddings in reversed(context.store.artifacts("encode-teacher")):
        teacher = embeddings.record.inputs["teacher"]
        if teacher.digest == identity:
            return teacher.location
    return None
