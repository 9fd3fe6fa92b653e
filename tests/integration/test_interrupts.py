"""Ctrl-C at every line between the gate and the commit: nobody is left waiting, nothing is lost.

The interpreter raises KeyboardInterrupt between two instructions of the main thread. A trace function
raises it here at each line in turn, in this thread; the random storm at the end sends real signals.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import leasebook
import ledger.gate
import ledger.locks
import ledger.sqlite_connections
import ledger.sqlite_log
import ledger.writer
from ledger.gate import Gate
from tests.ledgers import Ledger, allocate, check_whole, end, line_of, python, release

FILES = frozenset(
    str(module.__file__)
    for module in (
        ledger.gate,
        ledger.locks,
        ledger.sqlite_connections,
        ledger.sqlite_log,
        ledger.writer,
    )
)
QUICK_S = 10.0


def may_strike(frame: FrameType) -> bool:
    """Not at a ``with`` of a lock in C: between its block and its end no signal is let in."""
    return (
        not linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with ")
    )


def interrupted_at(number: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` with an interrupt at the n-th line of those files; whether it got that far."""
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and may_strike(frame):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left <= 0


def taken_by_another(path: Path) -> None:
    """Another descriptor, as another process would have it, passes the gate at once."""
    other = Gate(path)
    other.acquire(QUICK_S)
    other.release()
    other.close()


def test_an_interrupt_at_any_line_of_the_gate_leaves_it_free(tmp_path: Path) -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        gate = Gate(tmp_path / "gate")

        def pass_through(gate: Gate = gate) -> None:
            gate.acquire(QUICK_S)
            gate.release()

        reached = interrupted_at(number, pass_through)
        # What interrupts a release twice is not asked here: whoever called it calls it again.
        gate.release()
        taken_by_another(gate.path)
        gate.acquire(QUICK_S)
        gate.release()
        gate.close()
    assert number > 15


def test_an_interrupt_at_any_line_of_waiting_at_the_gate_leaves_it_free(tmp_path: Path) -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        gate, held = Gate(tmp_path / "gate"), Gate(tmp_path / "gate")
        held.acquire(QUICK_S)
        # Its thread lets go while the other waits.
        let_go = threading.Timer(0.01, lambda held=held: _let_go(held))  # type: ignore[misc]
        let_go.start()

        def pass_through(gate: Gate = gate) -> None:
            gate.acquire(QUICK_S)
            gate.release()

        reached = interrupted_at(number, pass_through)
        let_go.join()
        gate.release()
        taken_by_another(gate.path)
        gate.acquire(QUICK_S)
        gate.release()
        gate.close()
        held.close()
    assert number > 20


def _let_go(held: Gate) -> None:
    """Give a gate back from another thread, as the end of another process would."""
    held.forget()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, "sqlite")
    made.pool(n1={"cpu": 1_000_000})
    yield made
    made.close()


def test_an_interrupt_at_any_line_of_a_commit_leaves_the_ledger_to_others(made: Ledger) -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        command = allocate(f"x{number}", 1)
        reached = interrupted_at(number, lambda command=command: made.do(command))  # type: ignore[misc]
        taken_by_another(made.path.with_name(made.path.name + ".gate"))
        # Asked again it has its effect, once, whether or not the first time had it already.
        receipt = made.do(command)
        assert receipt.outcome == "granted", f"line {number}"
        assert receipt.allocation is not None
        made.do(release(f"y{number}", receipt.allocation.id, "h1"))
    assert number > 60
    check_whole(made.writer)
    book = made.writer.read(lambda book, now: len(book.allocations))
    assert book == 0


_STORM = """
import faulthandler, random, signal, sys, threading, time
import leasebook
faulthandler.dump_traceback_later(90, exit=True)
manager = leasebook.open(sys.argv[1])
over, armed, hits = False, False, 0
def struck(*_):
    # Once for each call: nobody presses Ctrl-C twice within a millisecond.
    global armed, hits
    if armed:
        armed = False
        hits += 1
        raise KeyboardInterrupt
def shoot():
    global over
    dice = random.Random(int(sys.argv[2]))
    for _ in range(300):
        time.sleep(dice.random() * 0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    over = True
signal.signal(signal.SIGINT, struck)
threading.Thread(target=shoot, daemon=True).start()
while not over:
    try:
        armed = True
        manager.allocate({"cpu": 1}, pool="full", holder="me", wait=600)
    except KeyboardInterrupt:
        pass
armed = False
manager.start_task(f"after-{sys.argv[2]}", by="me")
manager.close()
print("hits" if hits > 50 else f"only {hits}", flush=True)
"""


def test_a_storm_of_interrupts_among_those_who_wait_leaves_the_ledger_usable(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as manager:
        manager.open_pool("full", capacity={"cpu": 1})
        manager.open_pool("free", capacity={"cpu": 1})
        manager.allocate({"cpu": 1}, pool="full", holder="other")
        storms = [python(_STORM, path, seed, measured=False) for seed in ("1", "2")]
        while any(storm.poll() is None for storm in storms):
            # Every end rings their bells while they are being interrupted.
            got = manager.allocate({"cpu": 1}, pool="free", holder="me")
            manager.release(got.id, holder="me")
        for storm in storms:
            assert line_of(storm) == "hits"
            assert end(storm) == 0
        assert manager.verify().ok
        assert len(list(manager.events(type="task_started"))) == 2
