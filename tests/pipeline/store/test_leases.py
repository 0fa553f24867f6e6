"""Leases: one gets what several claim, the dead lose what they have, and the stopped trust nobody's silence."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from data_schemas.errors import ProtoRKDError
from pipeline.store import leases as module
from pipeline.store.leases import LEASE_VARIABLE, Leases, lease_seconds
from pipeline.store.shared_place import SharedFolder

LEASE_S = 60.0


class Silenced(Leases):
    """A process that was killed: it beats no more, and removes nothing."""

    def kill(self):
        self._ended.set()
        self._thread.join()


@pytest.fixture
def place(tmp_path):
    return SharedFolder(tmp_path / "place")


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def let_pass(clock, seconds, *living):
    """Let time pass in which processes beat, and look."""
    for _ in range(round(seconds / living[0].beat_s)):
        clock.now += living[0].beat_s
        for leases in living:
            leases._beat()
        for leases in living:
            leases._look()


def test_claim__of_many_at_once_is_given_to_one(place):
    with ExitStack() as held:
        processes = [held.enter_context(Leases(place, lease_s=LEASE_S)) for _ in range(8)]
        meeting = threading.Barrier(8)

        def claim(leases):
            meeting.wait()
            return [name for name in map(str, range(20)) if leases.claim(name)]

        with ThreadPoolExecutor(8) as pool:
            claimed = [name for names in pool.map(claim, processes) for name in names]
    assert sorted(claimed, key=int) == [str(number) for number in range(20)]


def test_claim__of_what_one_has_already_is_refused(place):
    with Leases(place, lease_s=LEASE_S) as leases:
        assert leases.claim("a")
        assert not leases.claim("a")
        assert not leases.is_free("a")


def test_lease__of_a_process_that_has_ended_is_free_at_once(place):
    with Leases(place, lease_s=LEASE_S) as other:
        with Leases(place, lease_s=LEASE_S) as ended:
            assert ended.claim("a")
            other.look_for_leases()
            assert not other.is_free("a")
        other._look()
        assert other.claim("a")
        assert other.was_taken_over("a")
    assert place.names("beats") == set()


def test_lease__of_a_silent_process_is_taken_over_by_one_once_its_time_is_up(place, clock):
    dead, one, two = (cls(place, lease_s=LEASE_S) for cls in (Silenced, Leases, Leases))
    with dead, one, two:
        assert dead.claim("a")
        dead.kill()
        for leases in (one, two):
            leases.look_for_leases()
        let_pass(clock, LEASE_S - one.beat_s, one, two)
        assert [one.claim("a"), two.claim("a")] == [False, False]
        let_pass(clock, 2 * one.beat_s, one, two)
        assert [one.claim("a"), two.claim("a")] == [True, False]
        assert not two.claim("a")  # it knows by now that one has it
        assert place.names("leases") == {"a.0", "a.1"}


def test_lease__lasts_while_its_owner_beats(place, clock):
    with Leases(place, lease_s=LEASE_S) as owner, Leases(place, lease_s=LEASE_S) as other:
        assert owner.claim("a")
        let_pass(clock, 5 * LEASE_S, owner, other)
        assert not other.claim("a")


def test_process__that_was_stopped_takes_nothing_from_those_it_could_not_watch(place, clock):
    with Leases(place, lease_s=LEASE_S) as owner, Leases(place, lease_s=LEASE_S) as stopped:
        assert owner.claim("a")
        clock.now += 100 * LEASE_S
        stopped._look()
        assert not stopped.claim("a")


def test_lease__that_was_created_by_a_request_without_an_answer_is_the_process_s_own(place, monkeypatch):
    create = place.create
    monkeypatch.setattr(place, "create", lambda key, data: create(key, data) and False)
    with Leases(place, lease_s=LEASE_S) as leases:
        assert leases.claim("a")


def test_leases__beat_by_themselves(place):
    with Leases(place, lease_s=0.3) as leases:
        [before] = place.tags("beats").values()
        deadline = time.monotonic() + 30
        while place.tags("beats") == {leases.owner: before}:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_leases__outlive_a_place_that_fails_for_a_while(place, monkeypatch):
    def fail(*_):
        raise ProtoRKDError("the disk is gone")

    with Leases(place, lease_s=0.06) as leases:
        with monkeypatch.context() as patch:
            patch.setattr(place, "write", fail)
            time.sleep(0.1)
        assert leases._thread.is_alive()


@pytest.mark.parametrize("text", ["none", "0", "-1", "nan", "inf"])
def test_lease_seconds__must_be_a_number_above_zero(text, monkeypatch):
    monkeypatch.setenv(LEASE_VARIABLE, text)
    with pytest.raises(ProtoRKDError, match=rf"{LEASE_VARIABLE} must be a number of seconds above 0; got '{text}'"):
        lease_seconds()


def test_lease_seconds__are_those_of_the_environment(monkeypatch):
    monkeypatch.delenv(LEASE_VARIABLE, raising=False)
    assert lease_seconds() == 60.0
    monkeypatch.setenv(LEASE_VARIABLE, "2.5")
    assert lease_seconds() == 2.5
