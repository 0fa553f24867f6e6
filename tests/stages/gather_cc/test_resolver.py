"""Names: looked up once in a while, and never waited for longer than told."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from stages.gather_cc import resolver
from stages.gather_cc.resolver import CachedResolver


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each name was looked up; the name says what comes of it."""
    counts: Counter[str] = Counter()

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        counts[host] += 1
        if host == "slow":
            time.sleep(0.5)
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if host == "unsure":
            raise socket.gaierror(socket.EAI_AGAIN, "ask again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    return counts


def with_resolver(work: Callable[[CachedResolver], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        one = CachedResolver(timeout_s=0.1)
        try:
            return await work(one)
        finally:
            await one.close()

    return asyncio.run(run())


def test_name__is_looked_up_once_for_all_who_ask(asked: Counter[str]) -> None:
    async def work(one: CachedResolver) -> list[Any]:
        return await asyncio.gather(*(one.resolve("known", port) for port in range(1, 9)), one.resolve("known", 9))

    found = with_resolver(work)
    assert asked["known"] == 1
    assert [answer[0]["port"] for answer in found] == list(range(1, 10))
    assert {answer[0]["host"] for answer in found} == {"192.0.2.1"}


@pytest.mark.parametrize(("name", "times"), [("unknown", 1), ("unsure", 3)])
def test_name__that_is_not_known_is_remembered_and_one_that_may_be_is_not(
    name: str, times: int, asked: Counter[str]
) -> None:
    async def work(one: CachedResolver) -> None:
        for _ in range(3):
            with pytest.raises(socket.gaierror):
                await one.resolve(name)

    with_resolver(work)
    assert asked[name] == times


def test_lookup__that_hangs_is_not_waited_for(asked: Counter[str]) -> None:
    async def work(one: CachedResolver) -> float:
        begin = time.monotonic()
        with pytest.raises(socket.gaierror, match="took too long"):
            await one.resolve("slow")
        return time.monotonic() - begin

    assert with_resolver(work) < 0.4


def test_names__that_are_remembered_are_bounded(asked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_MAX_NAMES", 5)

    async def work(one: CachedResolver) -> int:
        for number in range(20):
            await one.resolve(f"host{number}")
        return len(one._known)

    assert with_resolver(work) == 5


def test_name__is_looked_up_again_after_a_while(asked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_KEPT_S", 0.0)

    async def work(one: CachedResolver) -> None:
        await one.resolve("known")
        await one.resolve("known")

    with_resolver(work)
    assert asked["known"] == 2
