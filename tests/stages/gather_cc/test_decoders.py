"""Processes that decode: an image that kills its decoder costs itself alone."""

import asyncio
import os
import time
from typing import Any

import pytest

from stages.gather_cc import decoders
from stages.gather_cc.decoders import Decoders
from stages.gather_cc.image_writer import Rejected, WrittenImage


class Deadly:
    """Stands for a writer: dies of some bytes, and sleeps over others."""

    def __call__(self, row: int, data: bytes) -> WrittenImage | Rejected:
        if data == b"deadly":
            os._exit(9)
        if data == b"endless":
            time.sleep(60)
        return WrittenImage(row, len(data), "")


def keep_all(bodies: list[bytes], *, workers: int) -> list[Any]:
    async def run() -> list[Any]:
        with Decoders(Deadly(), workers=workers) as pool:  # type: ignore[arg-type]
            return await asyncio.gather(*(pool.write(row, body) for row, body in enumerate(bodies)))

    return asyncio.run(run())


def test_image__that_kills_its_decoder_is_rejected_and_the_others_are_kept() -> None:
    found = keep_all([b"a", b"deadly", b"b", b"c"], workers=1)
    assert found[1].reason == "the decoder died of it"
    assert [one for row, one in enumerate(found) if row != 1] == [
        WrittenImage(0, 1, ""),
        WrittenImage(2, 1, ""),
        WrittenImage(3, 1, ""),
    ]


def test_decoders__of_this_process_do_the_same() -> None:
    assert keep_all([b"a", b"bc"], workers=0) == [WrittenImage(0, 1, ""), WrittenImage(1, 2, "")]


def test_keep__ends_a_process_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "DECODE_S", 1)
    monkeypatch.setattr(decoders, "_writer", Deadly(), raising=False)
    child = os.fork()
    if not child:
        decoders._write(0, b"endless")
        os._exit(0)
    begin = time.monotonic()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 14
    assert time.monotonic() - begin < 5
