"""Forks at bad moments: several at once, interrupted ones, and ones in the middle of a wait."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import forks, sqlite_connections
from ledger.errors import LedgerUnavailable
from ledger.forks import no_fork
from ledger.gate import Gate
from ledger.sqlite_log import SqliteLog
from tests.ledgers import Ledger, allocate, check_whole

QUICK_S = 10.0


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, "sqlite")
    made.pool(n1={"cpu": 1_000_000})
    yield made
    made.close()


def child() -> int:
    """A child process that waits until it is ended, with all that it inherited."""
    pid = os.fork()
    if pid == 0:
        try:
            threading.Event().wait(6 * QUICK_S)
        finally:
            os._exit(0)
    return pid


def end_child(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_threads_that_fork_at_the_same_moment_leave_the_ledger_usable(forking: Ledger) -> None:
    def fork() -> None:
        # What the interpreter calls around a fork, in its order; the forks themselves add nothing.
        for _ in range(300):
            sqlite_connections._before_fork()
            forks._DOOR.before_fork()
            forks._DOOR.after_fork_in_parent()
            sqlite_connections._after_fork_in_parent()

    forking.got(1)
    others = [SqliteLog.open(forking.path) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=fork, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * QUICK_S)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        sys.setswitchinterval(before)
    assert forking.do(allocate("after", 1)).outcome == "granted"
    for log in others:
        assert log.head() == forking.writer.log.head()
        log.close()
    check_whole(forking.writer)


def test_a_child_forked_during_a_wait_at_the_gate_does_not_keep_the_lock(tmp_path: Path) -> None:
    held, waiting, other = (Gate(tmp_path / "gate") for _ in range(3))
    held.acquire(QUICK_S)
    begun = threading.Event()

    def wait_in_vain() -> None:
        begun.set()
        with pytest.raises(LedgerUnavailable):
            waiting.acquire(0.3)

    waiter = threading.Thread(target=wait_in_vain)
    waiter.start()
    begun.wait(QUICK_S)
    while waiting._waiter is None and waiter.is_alive():
        pass
    pid = child()
    try:
        waiter.join()
        held.release()
        # What its parent's thread got meanwhile, and gave back, is free although the child lives.
        other.acquire(QUICK_S)
        other.release()
    finally:
        end_child(pid)
        for gate in (held, waiting, other):
            gate.close()


def test_an_inherited_wait_at_the_gate_is_closed_in_the_child(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with Gate(tmp_path / "gate"):
        waiter = threading.Thread(target=lambda: gate.acquire(QUICK_S))
        waiter.start()
        while gate._waiter is None:
            pass
        fd = gate._waiter.fd
        pid = os.fork()
        if pid == 0:
            gate.after_fork_in_child()
            try:
                os.fstat(fd)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    waiter.join()
    gate.forget()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_inside_a_fork_leaves_the_parent_its_ledger(
    forking: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    forking.got(1)
    pause = Gate.pause

    def struck(gate: Gate, patience_s: float) -> bool:
        pause(gate, patience_s)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Gate, "pause", struck)
        pid = os.fork()
        if pid == 0:
            # In the child nothing is known of what its parent was in the middle of.
            try:
                forking.ask(1)
            except LedgerUnavailable:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    assert forking.do(allocate("after", 1)).outcome == "granted"
    check_whole(forking.writer)


def test_an_interrupt_on_the_way_into_sqlite_leaves_no_trace_at_the_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter = forks._Door.enter

    def struck(door: forks._Door) -> None:
        enter(door)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forks._Door, "enter", struck)
        with pytest.raises(KeyboardInterrupt), no_fork():
            pass
    assert not forks._DOOR.is_inside()


def test_a_stretch_within_a_stretch_ends_with_the_outer_one() -> None:
    with no_fork():
        with no_fork():
            pass
        assert forks._DOOR.is_inside()
    assert not forks._DOOR.is_inside()


def test_a_log_that_is_opened_while_the_door_shuts_is_paused_too(
    forking: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SqliteLog] = []
    shut = forks._Door._shut

    def late(door: forks._Door, end: float) -> None:
        opened.append(SqliteLog.open(forking.path))
        shut(door, end)

    # The last moment at which another thread could still get in.
    monkeypatch.setattr(forks._Door, "_shut", late)
    forking.got(1)
    pid = os.fork()
    if pid == 0:
        try:
            opened[0].head()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert opened[0].head().position == forking.writer.log.head().position
    opened[0].close()
