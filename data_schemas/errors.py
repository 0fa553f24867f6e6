"""The one error type that reaches a user without a traceback, and its kinds."""

from collections.abc import Mapping
from typing import Any


class ProtoRKDError(Exception):
    """Something that the user can mend: a bad input, flag or file.

    The message reads ``<thing> must <rule>; got <value>.`` and then says what to do next.
    """


class NewerRecordError(ProtoRKDError):
    """A record was written by a newer protorkd, which this one cannot read: it and its artifact stay as they are."""


class StopRequestedError(ProtoRKDError):
    """The user asked to stop, by Ctrl-C or SIGTERM: begin nothing more. What was whole by then is kept."""


class PartialError(ProtoRKDError):
    """A stage did a part of its work and could not do the rest; there is no artifact, but the part can be looked at.

    Args:
        message: Text of the error, in the form that `ProtoRKDError` describes.
        found: What ``--json`` prints of the part.
    """

    def __init__(self, message: str, found: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.found = found


def in_one_line(error: BaseException) -> str:
    """Return a library's message without the breaks that some put into it, to be part of ours."""
    return " ".join(str(error).split())
