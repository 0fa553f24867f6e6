"""Resolve host names in daemon threads, with a cache."""

import asyncio
import socket
import threading
from collections import OrderedDict

from aiohttp.abc import AbstractResolver, ResolveResult

_KEPT_S = 300.0
_MAX_NAMES = 20_000
_THREADS = 64

_Addresses = list[tuple[int, int, str]]  # family, protocol, address


class CachedResolver(AbstractResolver):
    """A resolver that looks names up as the system does, and caches results, unknown names included.

    A lookup may hang for any time. Its thread is a daemon, so that the process can end without it, and the number of
    threads is limited.

    Args:
        timeout_s: Longest time to wait for a lookup, in seconds.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._threads = asyncio.Semaphore(_THREADS)
        self._known: OrderedDict[tuple[str, int], tuple[float, asyncio.Task[_Addresses]]] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Find the addresses of a host.

        Raises:
            OSError: there are none (``socket.gaierror``), or not in time.
        """
        try:
            addresses = await asyncio.wait_for(asyncio.shield(self._lookup(host, family)), self._timeout_s)
        except TimeoutError as error:
            raise socket.gaierror(socket.EAI_AGAIN, "the lookup took too long") from error
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=protocol, flags=flags)
            for kind, protocol, address in addresses
        ]

    async def close(self) -> None:
        """Forget the lookups that still run."""
        for _, task in self._known.values():
            task.cancel()
        self._known.clear()

    def _lookup(self, host: str, family: int) -> "asyncio.Task[_Addresses]":
        now = asyncio.get_running_loop().time()
        until, task = self._known.get((host, family), (0.0, None))
        if task is None or until <= now or (task.done() and _may_pass(task)):
            task = asyncio.create_task(self._look_up(host, family))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # or it would be complained about
            self._known[host, family] = now + _KEPT_S, task
            self._known.move_to_end((host, family))
            while len(self._known) > _MAX_NAMES:
                self._known.popitem(last=False)
        return task

    async def _look_up(self, host: str, family: int) -> _Addresses:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Addresses] = loop.create_future()

        def settle(addresses: _Addresses | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is None and addresses is not None:
                answer.set_result(addresses)
            elif error is not None:
                answer.set_exception(error)

        def look() -> None:
            addresses, problem = None, None
            try:
                infos = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
                addresses = [(int(kind), protocol, str(place[0])) for kind, _, protocol, _, place in infos]
            except Exception as error:  # raised where the name was asked for
                problem = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, addresses, problem)

        async with self._threads:
            threading.Thread(target=look, name=f"lookup {host}", daemon=True).start()
            return await answer


def _may_pass(task: "asyncio.Task[_Addresses]") -> bool:
    """Return whether a lookup that is over failed for a reason that says nothing about the name."""
    error = None if task.cancelled() else task.exception()
    return task.cancelled() or (isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN)
