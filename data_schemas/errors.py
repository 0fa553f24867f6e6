"""The one error type that reaches a user without a traceback."""


class ProtoRKDError(Exception):
    """Something that the user can mend: a bad input, flag or file.

    The message reads ``<thing> must <rule>; got <value>.`` and then says what to do next.
    """
