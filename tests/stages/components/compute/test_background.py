"""Work that is done ahead of the loop or behind it, in order, with its errors."""

import threading
import time
from collections.abc import Callable

import pytest

from stages.components.compute.background import BackgroundFunction, prefetch, write_behind


def test_ahead__yields_every_result_in_order() -> None:
    assert list(prefetch(lambda number: number * number, range(5))) == [0, 1, 4, 9, 16]
    assert list(prefetch(str, [])) == []


def test_ahead__makes_the_next_while_the_last_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    results = prefetch(lambda number: begun[number].set(), range(3))
    next(results)
    assert begun[1].wait(timeout=10)
    assert not begun[2].is_set()
    results.close()


def test_ahead__raises_what_an_item_raises_when_its_turn_comes() -> None:
    results = prefetch(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_behind__calls_one_at_a_time_in_order_and_waits_for_the_last() -> None:
    done: list[int] = []
    with write_behind(done.append) as call:
        for number in range(5):
            call(number)
    assert done == [0, 1, 2, 3, 4]


def test_behind__owes_one_call_at_most() -> None:
    gate, begun = threading.Event(), []

    def slow(number: int) -> None:
        begun.append(number)
        gate.wait(timeout=10)

    with write_behind(slow) as call:
        call(0)
        second = threading.Thread(target=call, args=(1,))
        second.start()
        second.join(timeout=0.1)
        assert second.is_alive()
        gate.set()
        second.join(timeout=10)
    assert begun == [0, 1]


def test_behind__raises_what_a_call_raises_in_the_next_or_on_leaving() -> None:
    with pytest.raises(ZeroDivisionError), write_behind(lambda number: 1 // number) as call:
        call(0)
    with pytest.raises(ZeroDivisionError), write_behind(lambda number: 1 // number) as call:
        _call_all(call, [0, 1])


def test_behind__settles_and_checks_what_it_owes() -> None:
    gate, done = threading.Event(), []

    def slow(number: int) -> None:
        gate.wait(timeout=10)
        done.append(1 // number)

    with write_behind(slow) as call:
        call.settle()
        call.check()
        call(1)
        call.check()
        assert not done
        gate.set()
        call.settle()
        assert done == [1]
        call(0)
        with pytest.raises(ZeroDivisionError):
            _check_until_it_raises(call)
        call.settle()


def test_behind__finishes_what_it_owes_when_the_block_fails() -> None:
    done: list[int] = []
    with pytest.raises(RuntimeError, match="power cut"), write_behind(done.append) as call:
        _call_then_fail(call)
    assert done == [1]


def _call_all(call: Callable[[int], None], numbers: list[int]) -> None:
    for number in numbers:
        call(number)


def _check_until_it_raises(call: BackgroundFunction[[int]]) -> None:
    for _ in range(1000):
        call.check()
        time.sleep(0.01)


def _call_then_fail(call: Callable[[int], None]) -> None:
    call(1)
    raise RuntimeError("power cut")
