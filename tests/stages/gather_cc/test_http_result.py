"""What exceptions of the HTTP client mean."""

import errno
import os
import socket

import pytest

aiohttp = pytest.importorskip("aiohttp")

from aiohttp.client_reqrep import ConnectionKey  # noqa: E402 - needs aiohttp

from data_schemas.errors import ProtoRKDError  # noqa: E402
from stages.gather_cc.http_result import failure_of  # noqa: E402

KEY = ConnectionKey("host", 80, False, True, None, None, None)


def failed_connection(code: int) -> Exception:
    return aiohttp.ClientConnectorError(KEY, OSError(code, os.strerror(code)))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_machine__that_has_no_more_connections_is_no_fault_of_a_row(code: int) -> None:
    with pytest.raises(ProtoRKDError, match="--concurrency"):
        failure_of(failed_connection(code))


def test_error__that_nobody_foresaw_costs_a_row_and_is_named() -> None:
    found = failure_of(KeyError("strange"))
    assert (found.reason, found.detail) == ("unexpected error", "KeyError: 'strange'")


@pytest.mark.parametrize(
    ("error", "reason", "may_pass", "answered"),
    [
        (failed_connection(errno.EHOSTUNREACH), "connection failed", True, False),
        (failed_connection(errno.ECONNREFUSED), "connection refused", True, False),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "no common cipher")), "tls refused", False, True),
        (aiohttp.ClientConnectorCertificateError(KEY, ValueError("expired")), "tls refused", False, True),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "")), "unknown host", False, False),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "")), "lookup failed", True, False),
        (aiohttp.ConnectionTimeoutError(), "connect timeout", True, False),
        (aiohttp.ServerDisconnectedError(), "connection lost", True, True),
        (ConnectionResetError(), "connection lost", True, True),
        (aiohttp.InvalidURL("http://a b"), "invalid url", False, True),
    ],
)
def test_error__of_the_network_is_a_reason(error: Exception, reason: str, may_pass: bool, answered: bool) -> None:
    found = failure_of(error)
    assert (found.reason, found.may_pass, found.answered) == (reason, may_pass, answered)
