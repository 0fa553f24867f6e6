"""Errors of object stores, in words that say what to do and show nothing secret."""

import re

from data_schemas.errors import ProtoRKDError


class RemoteError(ProtoRKDError):
    """An object store did not answer, refused, or holds other bytes: that does not mean that something is absent."""


class ObjectDamagedError(RemoteError):
    """An object is missing, or has other bytes than were written."""


class BadKeyError(RemoteError):
    """A key that no store accepts."""


class UnmodifiedError(Exception):
    """An object still has the tag that the caller has seen."""


def unreachable(place: str, error: Exception) -> RemoteError:
    """Return an error that says what keeps an object from being reached, and what to do about it."""
    text = str(error)
    if "169.254.169.254" in text:
        got, advice = "no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as for any other tool."
    elif "NoSuchBucket" in text:
        got, advice = "NoSuchBucket", "Make the bucket, or mend the URL."
    elif "BadScheme" in text:
        got, advice = (
            "an endpoint without TLS",
            "Give AWS_ENDPOINT_URL an https address, or set AWS_ALLOW_HTTP=true.",
        )
    elif re.search(r"status code: 40[13]|Permission|Unauthenticated", text):
        got, advice = brief(error), "Check the credentials in the environment and what the bucket allows them."
    else:
        got, advice = (
            brief(error),
            "Check the network and the endpoint, and run the same command again: what was whole is kept.",
        )
    return RemoteError(f"{place} must be reachable; got {got}. {advice}")


def may_pass(text: str) -> bool:
    """Tell whether trying again may help: not after the library's own retries, nor after a client's mistake."""
    return not re.search(r"after \d+ retries|BadScheme|status code: 4(?!08|29)\d\d|169\.254\.169\.254", text)


def brief(error: Exception) -> str:
    """Say what went wrong, without quotes from a server or a library, because they may hold the name of a key."""
    text = str(error)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    if status or code:
        return " ".join(found[1].strip() for found in (status, code) if found)
    http = re.search(r"HTTP error: ([^\n:]+)", text)
    return http[1].strip() if http else type(error).__name__
