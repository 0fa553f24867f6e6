"""The HTTP client: it requests one URL once, within limits of size and time."""

import asyncio
import contextlib
import email.utils
import time
import zlib
from collections.abc import AsyncIterator
from types import TracebackType

import aiohttp
from yarl import URL

from stages.gather_cc.addresses import parse_url, public_socket
from stages.gather_cc.http_result import Answer, Body, Failure, Redirect, failure_of
from stages.gather_cc.options import GatherRuntime
from stages.gather_cc.resolver import CachedResolver

_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_ENCODINGS = ("gzip", "x-gzip", "deflate")
_OPT_OUT = ("noai", "noimageai")
_IDLE_S = 4.0  # idle connections are closed, because there are more hosts than connections
_LARGE_BYTES = 1 << 20
_NUM_LARGE = 32


class Client:
    """An HTTP client that keeps no cookies, knows no passwords, and follows no redirects.

    Args:
        runtime: Limits and timeouts.
    """

    def __init__(self, runtime: GatherRuntime) -> None:
        self._runtime = runtime
        self._large = asyncio.Semaphore(_NUM_LARGE)
        self._session = aiohttp.ClientSession(
            # The caller limits the number of connections.
            connector=aiohttp.TCPConnector(
                limit=0,
                resolver=CachedResolver(timeout_s=runtime.connect_timeout_s),
                use_dns_cache=False,
                keepalive_timeout=_IDLE_S,
                # A proxy is chosen by the user, and may have any address.
                socket_factory=None if runtime.allow_private or runtime.proxy else public_socket,
            ),
            timeout=aiohttp.ClientTimeout(
                total=runtime.timeout_s, sock_connect=runtime.connect_timeout_s, sock_read=runtime.read_timeout_s
            ),
            headers={"User-Agent": runtime.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @contextlib.asynccontextmanager
    async def ask(self, url: URL) -> AsyncIterator[Answer]:
        """Request a URL; a large body counts inside the context among the few that may be in memory at once.

        Raises:
            ProtoRKDError: this machine has no more connections.
        """
        async with contextlib.AsyncExitStack() as held:
            try:
                answer = await self._ask(url, held)
            except Exception as error:  # `failure_of` tells them apart
                answer = failure_of(error)
            yield answer

    async def _ask(self, url: URL, held: contextlib.AsyncExitStack) -> Answer:
        async with self._session.get(url, allow_redirects=False, proxy=self._runtime.proxy or None) as response:
            status = response.status
            if status in _REDIRECTS:
                return _redirect(response)
            if status != 200:
                wait_s = _wait_s(response.headers.get("Retry-After", ""))
                return Failure(f"http {status}", http_status=status, may_pass=status in _MAY_PASS, wait_s=wait_s)
            if self._runtime.respect_opt_out and _opts_out(response.headers.getall("X-Robots-Tag", [])):
                return Failure("opted out by X-Robots-Tag", http_status=status)
            return await self._read(response, held)

    async def _read(self, response: aiohttp.ClientResponse, held: contextlib.AsyncExitStack) -> Answer:
        limit, status = self._runtime.max_bytes, response.status
        too_long = Failure("more than --max-bytes", http_status=status)
        if (response.content_length or 0) > limit:
            return too_long
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in (*_ENCODINGS, "identity", ""):
            return Failure("unknown content encoding", encoding, http_status=status)
        inflate = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding in _ENCODINGS else None
        body, is_large = bytearray(), False
        async for block in response.content.iter_any():
            try:
                body += block if inflate is None else inflate.decompress(block, limit + 1 - len(body))
            except zlib.error as error:
                return Failure("malformed answer", str(error), http_status=status)
            if len(body) > limit:
                return too_long
            if len(body) > _LARGE_BYTES and not is_large:
                is_large = True
                await held.enter_async_context(self._large)
        if not body:
            return Failure("empty body", http_status=status)
        return Body(bytes(body), status)


def _redirect(response: aiohttp.ClientResponse) -> Answer:
    place = response.headers.get("Location", "")
    url = parse_url(place) if place else None
    if url is None:
        return Failure("redirect to nowhere", place[:200], http_status=response.status)
    return Redirect(response.url.join(url), response.status)


def _wait_s(retry_after: str) -> float | None:
    """Parse Retry-After, in seconds or as a date; None if it is neither."""
    if retry_after.strip().isascii() and retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _opts_out(tags: list[str]) -> bool:
    """Return whether X-Robots-Tag holds a directive against training, for all or for some robots."""
    words = ",".join(tags).lower().replace(":", ",").split(",")
    return any(word.strip() in _OPT_OUT for word in words)
