"""Ctrl-C and SIGTERM: what they set or raise, for how long, and that an error is told before a signal ends anything."""

import signal
import threading

import pytest
from click.testing import CliRunner

from cli import STOPPED_STATUS, cli
from data_schemas.errors import ProtoRKDError
from pipeline.signals import command_signals, stop_is_asked, stop_requests

POLITE = [signal.SIGINT, signal.SIGTERM]


def answer(number):
    with stop_requests():
        signal.raise_signal(number)
        raise ProtoRKDError("asked to stop and did")


def insist(number):
    with command_signals(), stop_requests():
        signal.raise_signal(number)
        signal.raise_signal(number)


def handlers():
    return [signal.getsignal(number) for number in POLITE]


@pytest.mark.parametrize("number", POLITE)
def test_stop_requests__set_an_event_and_leave_the_handlers_as_they_were(number):
    with command_signals():
        before = handlers()
        with stop_requests() as stop:
            assert not stop.is_set()
            assert not stop_is_asked()
            signal.raise_signal(number)
            assert stop.is_set()
            assert signal.getsignal(number) == before[POLITE.index(number)]  # a second one does what it did before
        assert handlers() == before
        assert stop_is_asked()  # by whoever begins something else
    assert not stop_is_asked()


@pytest.mark.parametrize("number", POLITE)
def test_stop_requests__hand_on_a_signal_that_came_too_late_where_no_command_is(number):
    received = []
    before = signal.signal(number, lambda number, _: received.append(number))
    try:
        with stop_requests() as stop:
            signal.raise_signal(number)
            assert stop.is_set()
            assert received == []
        assert received == [number]
        with pytest.raises(ProtoRKDError):
            answer(number)
        assert received == [number]  # the block has answered the second one
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", POLITE)
def test_stop_requests__let_a_second_signal_end_the_command_at_once(number):
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            insist(number)
    finally:
        signal.signal(signal.SIGINT, interrupts)


def test_stop_requests__take_back_their_handlers_where_nobody_tells_the_error():
    before = handlers()
    with pytest.raises(ProtoRKDError), stop_requests():
        raise ProtoRKDError("broken")
    assert handlers() == before


def test_stop_requests__keep_their_handlers_until_an_error_is_told():
    before = handlers()
    with command_signals():
        with pytest.raises(ProtoRKDError), stop_requests() as stop:
            raise ProtoRKDError("another process has ended")
        signal.raise_signal(signal.SIGTERM)  # torchrun's
        assert stop.is_set()
    assert handlers() == before


def test_stop_requests__end_with_the_work_that_goes_well():
    with command_signals():
        within = handlers()
        with stop_requests():
            assert handlers() != within
        assert handlers() == within


def test_command_signals__interrupt_at_sigterm_once():
    before = handlers()
    after_one = []

    def work():
        with command_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                after_one.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert after_one == [signal.SIG_DFL]  # a second one ends the process
    assert handlers() == before


def test_signals__are_left_alone_outside_the_main_thread():
    seen = []

    def work():
        with command_signals(), stop_requests() as stop:
            seen.append((handlers(), stop.is_set()))

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("number", POLITE)
def test_command__that_is_interrupted_says_so_in_a_line(number, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.commands.artifacts.Store.survey", lambda *_: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = CliRunner().invoke(cli, ["status", "--store", str(tmp_path)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == STOPPED_STATUS == 75
    assert done.stderr == "Error: Asked to stop, and did. Run the same command again: what was whole is kept.\n"
