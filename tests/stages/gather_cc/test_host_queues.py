"""Turns of hosts: none has more than its share, and waiting for a time is no waiting for others."""

import random
from dataclasses import replace

import pytest

yarl = pytest.importorskip("yarl")

from stages.gather_cc.host_queues import HostQueues, Job  # noqa: E402 - needs yarl


def job(row: int, host: str) -> Job:
    return Job(row, yarl.URL(f"http://{host}/{row}"))


def taken(queues: HostQueues, now: float = 0.0) -> list[int]:
    found = []
    while (job := queues.take(now)) is not None:
        found.append(job.row)
    return found


def test_hosts__take_turns() -> None:
    queues = HostQueues(per_host=2)
    for row, host in enumerate("aaaabbc"):
        queues.add(job(row, host))
    assert taken(queues) == [0, 4, 6, 1, 5]
    assert len(queues) == 2
    queues.release("a")
    assert taken(queues) == [2]


def test_job__that_was_begun_goes_before_new_ones() -> None:
    queues = HostQueues(per_host=9)
    queues.add(job(0, "a"))
    queues.add(replace(job(1, "a"), start=0.5))
    assert taken(queues) == [1, 0]


def test_job__comes_back_at_its_time_and_not_before() -> None:
    queues = HostQueues(per_host=2)
    queues.add(job(0, "a"), at=5.0)
    assert len(queues) == 1
    assert queues.next_alarm() == 5.0
    assert taken(queues, now=4.9) == []
    assert taken(queues, now=5.0) == [0]
    assert queues.next_alarm() is None


def test_host__that_is_paused_is_left_alone_and_others_are_not() -> None:
    queues = HostQueues(per_host=1)
    for row, host in enumerate("aab"):
        queues.add(job(row, host))
    queues.pause("a", until=3.0)
    queues.pause("a", until=2.0)  # the longer counts
    assert taken(queues, now=2.5) == [2]
    queues.release("b")
    assert taken(queues, now=3.0) == [0]
    queues.release("a")
    assert taken(queues, now=3.0) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_queues__lose_nothing_and_keep_to_the_limit_in_any_order(seed: int) -> None:
    random_ = random.Random(seed)
    queues, out, done, now, number = HostQueues(per_host=2), [], [], 0.0, 0
    while len(done) < 200:
        now += 0.1
        match random_.randrange(4):
            case 0 if number < 200:
                queues.add(job(number, random_.choice("abcd")), at=random_.choice([0.0, now + random_.random()]))
                number += 1
            case 1 if (found := queues.take(now)) is not None:
                out.append(found)
                assert sum(one.host == found.host for one in out) <= 2
            case 2 if out:
                done.append(out.pop(random_.randrange(len(out))))
                queues.release(done[-1].host)
            case 3 if random_.random() < 0.1:
                queues.pause(random_.choice("abcd"), until=now + random_.random())
    assert sorted(one.row for one in done) == list(range(200))
    assert len(queues) == 0
    assert not queues._waiting
    assert not queues._out
