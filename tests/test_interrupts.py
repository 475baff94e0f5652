from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nectargan.interrupts import (
    STOPS,
    default_signals,
    end_by_signal,
    held_signals,
    is_second,
    signal_of,
    stop_on_signals,
    uninterrupted,
)
from tests.processes import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("whole")
    assert done == ["whole"]


def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt) as raised, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("never")
    assert done == []
    assert is_second(raised.value)


def test_a_second_interrupt_is_known_by_the_first() -> None:
    assert not is_second(None)
    assert not is_second(KeyboardInterrupt())
    with pytest.raises(SystemExit) as raised:
        try:
            raise KeyboardInterrupt
        finally:
            raise SystemExit(143)
    assert is_second(raised.value)


def test_the_error_of_a_signal() -> None:
    for number in STOPS:
        assert signal_of(end_by_signal(number)) == number
    assert isinstance(end_by_signal(signal.SIGINT), KeyboardInterrupt)
    assert [signal_of(each) for each in (SystemExit(), SystemExit(1), ValueError())] == [0, 0, 0]


def test_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with uninterrupted(), uninterrupted():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_handler_gets_its_signal() -> None:
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_of_the_block_goes_before_a_signal() -> None:
    with pytest.raises(ZeroDivisionError), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError


def test_other_threads_are_left_alone() -> None:
    seen = []

    def run() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS[1:])
@pytest.mark.usefixtures("handlers")
def test_signals_that_stop_wait_as_well(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    stop_on_signals()
    done = []
    with pytest.raises(SystemExit) as raised, uninterrupted():
        signal.raise_signal(number)
        done.append("whole")
    assert (done, raised.value.code) == (["whole"], 128 + number)


@pytest.mark.usefixtures("handlers")
def test_nohup_is_obeyed() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals()
    with uninterrupted():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signal.raise_signal(signal.SIGHUP)


_BUSY = """
import sys, threading, torch
from nectargan.interrupts import end_before_exit

def work():
    swallowed = 0
    while True:
        try:
            while True:
                torch.rand(64, 64) @ torch.rand(64, 64)
                started.set()
        except SystemExit:
            swallowed += 1
            if swallowed > int(sys.argv[1]):
                raise

started = threading.Event()
thread = threading.Thread(target=work, daemon=True)
thread.start()
end_before_exit(thread)
started.wait()
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("swallows", "ending", "code", "last"),
    [
        (0, "print('done')", 0, ""),
        (1, "sys.exit(3)", 3, ""),
        (0, "raise ValueError('mine')", 1, "ValueError: mine"),
    ],
)
def test_the_exit_code_is_the_programs_own_while_a_thread_is_inside_torch(
    swallows: int, ending: str, code: int, last: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BUSY, str(swallows), ending],
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr.strip().rpartition("\n")[2]) == (code, last)


def test_a_held_signal_is_kept_for_those_who_ask() -> None:
    before = signal.getsignal(signal.SIGINT)
    with held_signals() as held:
        assert held.number == 0
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert held.number == signal.SIGINT
        held.release()
        assert signal.getsignal(signal.SIGINT) is before
        held.hold()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_handled_by_default_during_a_wait() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with default_signals():
        found = {signal.getsignal(number) for number in STOPS}
        assert found <= {signal.SIG_DFL, signal.SIG_IGN}
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert [signal.getsignal(number) for number in STOPS] == before


_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(600)
"""
_CHILD = """
import sys, time
from pathlib import Path
from nectargan.interrupts import stop_on_signals, stop_with_parent
place = Path(sys.argv[1])
stop_on_signals()
stop_with_parent()
try:
    place.write_text("started")
    while True:
        time.sleep(0.1)
except SystemExit as stop:
    place.write_text(f"stopped with {stop.code}")
"""


def test_a_process_stops_when_its_parent_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "said"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD, str(place)])
    try:
        wait_until(lambda: place.exists() and place.read_text() == "started")
        parent.kill()
        wait_until(lambda: place.read_text() == "stopped with 143")
    finally:
        parent.kill()
        parent.wait()
