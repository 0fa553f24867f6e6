"""The result of requesting one URL once: a body, a redirect, or a failure with its reason."""

import errno
import socket
from dataclasses import dataclass, replace

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError
from yarl import URL

from data_schemas.errors import ProtoRKDError
from stages.gather_cc.addresses import INVALID, PRIVATE, AddressRefused

_OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_DETAIL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Body:
    """A decompressed body.

    Args:
        data: Bytes of the body, never empty.
        http_status: Status of the answer: 200.
    """

    data: bytes
    http_status: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to another URL.

    Args:
        url: Target, which has not been checked yet.
        http_status: Status of the redirect.
    """

    url: URL
    http_status: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that gave no body.

    Args:
        reason: Short sentence, one of a fixed few.
        detail: Details of this row.
        http_status: Status of the answer; None without an answer.
        may_pass: Whether a retry may help.
        wait_s: Seconds for which the host wants no requests; None if it did not say.
        answered: Whether the host sent anything at all.
    """

    reason: str
    detail: str = ""
    http_status: int | None = None
    may_pass: bool = False
    wait_s: float | None = None
    answered: bool = True


Answer = Body | Redirect | Failure

_LOST = Failure("connection lost", may_pass=True)
_MALFORMED = Failure("malformed answer")


# The first that fits is taken; subclasses come before their base classes.
_MEANINGS: tuple[tuple[type[Exception], Failure], ...] = (
    (aiohttp.ClientSSLError, Failure("tls refused")),
    (aiohttp.ClientConnectorCertificateError, Failure("tls refused")),
    (aiohttp.ConnectionTimeoutError, Failure("connect timeout", may_pass=True, answered=False)),
    (aiohttp.SocketTimeoutError, Failure("read timeout", may_pass=True)),
    (TimeoutError, Failure("timeout", may_pass=True)),
    (aiohttp.ClientPayloadError, _LOST),
    (aiohttp.ServerDisconnectedError, _LOST),
    (aiohttp.ClientOSError, _LOST),
    (ValueError, Failure(INVALID)),  # also a name that cannot be resolved
    (aiohttp.ClientError, _MALFORMED),
    (HttpProcessingError, _MALFORMED),
    (OSError, _LOST),
)


def failure_of(error: Exception) -> Failure:
    """Turn an exception of the HTTP client into a failure; an unexpected one costs its row, and not the run.

    Raises:
        ProtoRKDError: this machine has no more connections or memory.
    """
    _check_means(error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _lookup_failure(error.os_error)
    if type(error) is aiohttp.ClientConnectorError:
        return _connection_failure(error.os_error)
    if isinstance(error, aiohttp.ClientPayloadError) and not _is_cut_off(error):
        return replace(_MALFORMED, detail=str(error)[:_DETAIL_CHARS])
    for kind, failure in _MEANINGS:
        if isinstance(error, kind):
            return replace(failure, detail=str(error)[:_DETAIL_CHARS])
    return Failure("unexpected error", f"{type(error).__name__}: {error}"[:_DETAIL_CHARS])


def _lookup_failure(error: OSError) -> Failure:
    if isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_NAME:
        return Failure("unknown host", answered=False)
    return Failure("lookup failed", str(error), may_pass=True, answered=False)


def _connection_failure(error: OSError) -> Failure:
    if isinstance(error, AddressRefused):
        return Failure(PRIVATE)
    if error.errno == errno.ECONNREFUSED:
        return Failure("connection refused", may_pass=True, answered=False)
    return Failure("connection failed", str(error)[:_DETAIL_CHARS], may_pass=True, answered=False)


def _check_means(error: Exception) -> None:
    """Raise an error if this machine, and not the host, is the cause."""
    if isinstance(error, OSError) and error.errno in _OUT_OF_MEANS:
        raise ProtoRKDError(
            f"This machine must have room for --concurrency connections; {error.strerror}. Pass a smaller number, or "
            "raise the limit of open files (ulimit -n), and run the same command again: what was whole is kept."
        ) from error


def _is_cut_off(error: aiohttp.ClientPayloadError) -> bool:
    """Return whether a body was cut off, which a retry may mend."""
    cause = error.__cause__
    return cause is None or isinstance(cause, ContentLengthError | OSError) or "Not enough data" in str(cause)
