"""What comes of asking for one URL once: a body, a way on, or a failure with its reason."""

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
    """The bytes that a host gave, decompressed.

    Args:
        data: never empty.
        http_status: 200.
    """

    data: bytes
    http_status: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """The host says where to ask instead.

    Args:
        url: not looked at yet.
        http_status: a redirect's.
    """

    url: URL
    http_status: int


@dataclass(frozen=True, slots=True)
class Failure:
    """No bytes.

    Args:
        reason: a short sentence, one of a fixed few.
        detail: what differs from row to row.
        http_status: None where none came.
        may_pass: whether asking again may help.
        wait_s: how long the host wants to be left alone; None if it did not say.
        answered: whether the host said anything at all.
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


# The first that fits; each before what it is a kind of.
_MEANINGS: tuple[tuple[type[Exception], Failure], ...] = (
    (aiohttp.ClientSSLError, Failure("tls refused")),
    (aiohttp.ClientConnectorCertificateError, Failure("tls refused")),
    (aiohttp.ConnectionTimeoutError, Failure("connect timeout", may_pass=True, answered=False)),
    (aiohttp.SocketTimeoutError, Failure("read timeout", may_pass=True)),
    (TimeoutError, Failure("timeout", may_pass=True)),
    (aiohttp.ClientPayloadError, _LOST),
    (aiohttp.ServerDisconnectedError, _LOST),
    (aiohttp.ClientOSError, _LOST),
    (ValueError, Failure(INVALID)),  # also a name that no resolver can be asked for
    (aiohttp.ClientError, _MALFORMED),
    (HttpProcessingError, _MALFORMED),
    (OSError, _LOST),
)


def failure_of(error: Exception) -> Failure:
    """Say what an exception of the HTTP client means; one that nobody foresaw costs its row, and not the run.

    Raises:
        ProtoRKDError: it is this machine that cannot go on.
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
    """Tell a host that cannot be reached from a machine that can reach none."""
    if isinstance(error, OSError) and error.errno in _OUT_OF_MEANS:
        raise ProtoRKDError(
            f"This machine must have room for --concurrency connections; {error.strerror}. Pass a smaller number, or "
            "raise the limit of open files (ulimit -n), and run the same command again: what was whole is kept."
        ) from error


def _is_cut_off(error: aiohttp.ClientPayloadError) -> bool:
    """Whether a body ended before its time, which it may not do another time."""
    cause = error.__cause__
    return cause is None or isinstance(cause, ContentLengthError | OSError) or "Not enough data" in str(cause)
