"""A process that hangs in its work is ended where others wait for it, and in no other case."""

import multiprocessing
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.log import show_log
from stages.components.compute.hang_watch import HangWatch

LOOK_S, LOOKS = 0.02, 5
PATIENCE_S = 60


def in_process(work: Callable[[HangWatch], None], *, is_on: bool = True) -> int | None:
    """Run work under a watch in a process of its own, and return its exit status."""

    def run() -> None:
        show_log()
        with HangWatch(is_on=is_on, look_s=LOOK_S, looks=LOOKS) as watch:
            work(watch)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(PATIENCE_S)
    return process.exitcode


def hang(watch: HangWatch) -> None:
    for _ in watch.over([1]):
        time.sleep(PATIENCE_S)


def hang_behind_the_last(watch: HangWatch) -> None:
    assert list(watch.over([1])) == [1]
    time.sleep(PATIENCE_S)


@pytest.mark.parametrize("work", [hang, hang_behind_the_last])
def test_hang_watch__ends_a_process_that_hangs(
    work: Callable[[HangWatch], None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert in_process(work) == 1
    assert "must be done with a batch within 0 minutes, for others wait for it; it hangs" in capfd.readouterr().err


def slow_batches() -> Iterator[int]:
    for number in range(2):
        time.sleep(LOOK_S * LOOKS * 4)
        yield number


def test_hang_watch__lets_a_process_wait_for_batches_and_load() -> None:
    def work(watch: HangWatch) -> None:
        time.sleep(LOOK_S * LOOKS * 4)
        assert list(watch.over(slow_batches())) == [0, 1]

    assert in_process(work) == 0


def test_hang_watch__lets_many_batches_take_long_together() -> None:
    def work(watch: HangWatch) -> None:
        for _ in watch.over(range(20)):
            time.sleep(LOOK_S)

    assert in_process(work) == 0


def test_hang_watch__leaves_a_process_alone_for_which_nobody_waits() -> None:
    def work(watch: HangWatch) -> None:
        for _ in watch.over([1]):
            time.sleep(LOOK_S * LOOKS * 4)

    assert in_process(work, is_on=False) == 0
