"""Waiting for capacity: woken by this process, by another one, by time, and by a holder's death, with
nobody else running; and giving up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

import leasebook
from leasebook import waiting as waiting_module
from leasebook.manager import ResourceManager
from ledger.errors import LedgerReadOnly, Reason, Refused
from ledger.wake import Bell
from scheduler.sweeps import crash
from tests.ledgers import end, line_of, python, say_to

LONG_S = 60.0
"""Longer than any test may take: whoever waits this long was not woken."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    with leasebook.open(path) as manager:
        manager.open_pool("box", capacity={"cpu": 1})
    return path


@pytest.fixture
def manager(path: Path) -> Iterator[ResourceManager]:
    with leasebook.open(path) as made:
        yield made


class Waiting(threading.Thread):
    """A thread that waits for something, and what came of it."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.got: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.got = self._act()
        except BaseException as error:
            self.got = error

    def answer(self) -> Any:
        self.join(30)
        assert not self.is_alive(), "it was never woken"
        return self.got


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits looks up only when woken, or when a lease ends: never just to see."""
    monkeypatch.setattr(waiting_module, "LOOK_FOR_CRASHES_EVERY_S", LONG_S)


def queued(manager: ResourceManager, count: int = 1) -> list[str]:
    """The ids of those who wait, once there are so many."""
    for _ in range(30_000):
        found = [handle.id for handle in manager.list(state="waiting")]
        if len(found) == count:
            return found
        time.sleep(0.001)
    raise AssertionError("nobody got into the queue")


_HOLDER = """
import os, sys
import leasebook
manager = leasebook.open(sys.argv[1])
handle = manager.allocate({"cpu": 1}, pool="box", holder="other", **eval(sys.argv[2]))
print(handle.id, flush=True)
for line in sys.stdin:
    if line.strip() == "release":
        handle.release()
    elif line.strip().startswith("withdraw"):
        manager.withdraw(line.split()[1], holder="me")
    print("done", flush=True)
"""


def holder(path: Path, options: str = "{}") -> tuple[Popen[str], str]:
    """Another process that holds the pool, and the id under which it does."""
    process = python(_HOLDER, path, options)
    return process, line_of(process)


# --- woken -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unhurried")
def test_a_waiter_is_woken_by_a_release_in_its_own_process(manager: ResourceManager) -> None:
    held = manager.allocate({"cpu": 1}, pool="box", holder="other")
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    (place,) = queued(manager)
    held.release()
    granted = waiter.answer()
    assert (granted.id, granted.state, granted.holder) == (place, "active", "me")
    assert granted.fencing_token > held.fencing_token


@pytest.mark.usefixtures("unhurried")
def test_a_waiter_is_woken_by_a_release_in_another_process(
    path: Path, manager: ResourceManager
) -> None:
    process, held = holder(path)
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    queued(manager)
    say_to(process, "release")
    assert line_of(process) == "done"
    assert waiter.answer().state == "active"
    # The hand-over is one commit: nobody could come between.
    release, grant = [e for e in manager.events() if e.type in ("released", "allocated")][-2:]
    assert (release.allocation, grant.allocation) == (held, waiter.got.id)
    assert (grant.position, grant.recorded_at) == (release.position + 1, release.recorded_at)
    end(process)


@pytest.mark.usefixtures("unhurried")
def test_a_waiter_is_woken_although_its_own_process_took_the_news_in_by_another_way(
    path: Path, manager: ResourceManager
) -> None:
    process, _ = holder(path)
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    queued(manager)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            manager.list()

    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    say_to(process, "release")
    assert waiter.answer().state == "active"
    stop.set()
    for reader in readers:
        reader.join(10)
    end(process)


@pytest.mark.usefixtures("unhurried")
def test_every_waiter_gets_its_turn_in_order(manager: ResourceManager) -> None:
    held = manager.allocate({"cpu": 1}, pool="box", holder="other")
    waiters = []
    for number in range(4):
        waiters.append(
            Waiting(
                lambda n=number: manager.allocate(  # type: ignore[misc]
                    {"cpu": 1}, pool="box", holder=f"w{n}", wait=LONG_S
                )
            )
        )
        queued(manager, number + 1)
    order = []
    for waiter in waiters:
        held.release()
        held = waiter.answer()
        order.append(held.holder)
    assert order == ["w0", "w1", "w2", "w3"]


@pytest.mark.usefixtures("unhurried")
def test_a_waiter_is_woken_by_the_end_of_a_lease_with_nobody_else_running(
    manager: ResourceManager,
) -> None:
    held = manager.allocate({"cpu": 1}, pool="box", holder="other", ttl="300ms")
    granted = manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S)
    assert granted.state == "active"
    assert held.get().ended_by == "expired"
    expired, grant = [e for e in manager.events() if e.type in ("expired", "allocated")][-2:]
    assert expired.at == held.expires_at_ns
    assert grant.at >= expired.at
    assert grant.recorded_at == expired.recorded_at


def test_a_waiter_is_woken_when_the_holders_process_is_killed_with_nobody_else_running(
    path: Path, manager: ResourceManager
) -> None:
    process, held = holder(path, "{'pid': os.getpid()}")
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    queued(manager)
    os.kill(process.pid, signal.SIGKILL)
    assert waiter.answer().state == "active"
    ended = manager.get(held)
    assert (ended.state, ended.ended_by) == ("ended", "crashed")
    (reclaimed,) = manager.events(type="reclaimed")
    assert reclaimed.body.evidence["pid"] == process.pid
    end(process)


def test_a_wait_for_an_allocation_that_is_granted_already_does_not_block(
    manager: ResourceManager,
) -> None:
    held = manager.allocate({"cpu": 1}, pool="box")
    assert manager.wait(held.id).id == held.id
    held.release()
    assert manager.wait(held.id).state == "ended"


def test_many_waiters_of_one_process_look_for_crashes_once_and_not_each(
    manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler import sweeps

    looks: list[float] = []
    crash = sweeps.crash
    monkeypatch.setattr(
        sweeps, "crash", lambda writer: (looks.append(time.monotonic()), crash(writer))[1]
    )
    held = manager.allocate({"cpu": 1}, pool="box", holder="other")
    waiters = [
        Waiting(lambda: manager.allocate({"cpu": "100m"}, pool="box", holder="me", wait=LONG_S))
        for _ in range(8)
    ]
    queued(manager, 8)
    held.release()
    for waiter in waiters:
        assert waiter.answer().state == "active"
    assert len(looks) <= 3


# --- not granted -------------------------------------------------------------------------------------


def test_a_wait_that_is_over_is_refused_as_timed_out(manager: ResourceManager) -> None:
    manager.allocate({"cpu": 1}, pool="box", holder="other")
    with pytest.raises(Refused, match="timed_out") as caught:
        manager.allocate({"cpu": 1}, pool="box", holder="me", wait="200ms")
    assert caught.value.reason == Reason.WAIT_TIMED_OUT
    assert manager.list(state="waiting") == []
    (withdrawn,) = manager.events(type="withdrawn")
    (queued_,) = manager.events(type="queued")
    assert withdrawn.body.cause == "timed_out"
    assert withdrawn.at == queued_.body.until


def test_a_call_may_block_for_less_time_than_its_place_is_kept(manager: ResourceManager) -> None:
    held = manager.allocate({"cpu": 1}, pool="box", holder="other")
    place = manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S, block=False)
    assert place.state == "waiting"
    assert manager.wait(place.id, timeout="50ms").state == "waiting"
    assert manager.wait(place.id, timeout=0).state == "waiting"
    held.release()
    assert manager.wait(place.id, timeout=0).state == "active"


@pytest.mark.usefixtures("unhurried")
def test_a_place_withdrawn_by_another_process_ends_the_wait_and_not_as_a_timeout(
    path: Path, manager: ResourceManager
) -> None:
    process, _ = holder(path)
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    (place,) = queued(manager)
    say_to(process, f"withdraw {place}")
    assert line_of(process) == "done"
    refused = waiter.answer()
    assert isinstance(refused, Refused)
    assert refused.reason == Reason.ALREADY_ENDED
    assert "withdrawn" in refused.message
    end(process)


def test_a_wait_for_nothing_is_refused(manager: ResourceManager) -> None:
    for name in ("A999", "", "nonsense", "A\ud800", "x" * 1000):
        with pytest.raises(Refused) as caught:
            manager.wait(name)
        assert caught.value.reason == Reason.NO_SUCH_ALLOCATION


@pytest.mark.usefixtures("unhurried")
def test_the_closing_of_a_pool_ends_the_wait(manager: ResourceManager) -> None:
    manager.allocate({"cpu": 1}, pool="box", holder="other")
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    queued(manager)
    manager.close_pool("box")
    assert isinstance(waiter.answer(), Refused)


def test_a_ledger_opened_for_reading_can_be_waited_on_and_its_ends_count(
    path: Path, manager: ResourceManager
) -> None:
    manager.allocate({"cpu": 1}, pool="box", holder="other", ttl=500)
    place = manager.allocate({"cpu": 1}, pool="box", holder="me", wait="300ms", block=False)
    with leasebook.open(path, read_only=True) as reader:
        with pytest.raises(Refused) as caught:
            reader.wait(place.id)
        assert caught.value.reason == Reason.WAIT_TIMED_OUT
        assert reader.get(place.id).ended_by == "timed_out"
        with pytest.raises(LedgerReadOnly):
            reader.release(place.id)
    # Only the reader looked: nothing is written down yet.
    assert [e.type for e in manager.events()].count("withdrawn") == 0


# --- interrupted -------------------------------------------------------------------------------------

_INTERRUPTED = """
import os, sys
import leasebook
manager = leasebook.open(sys.argv[1])
print("ready", flush=True)
try:
    manager.allocate({"cpu": 1}, pool="box", holder="me", wait=600, **eval(sys.argv[2]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
manager.start_task("afterwards", by="me")
manager.close()
"""


@pytest.mark.parametrize("options", ["{}", "{'command_id': 'mine'}"])
def test_an_interrupted_wait_gives_its_place_up_unless_its_id_can_be_asked_again(
    path: Path, manager: ResourceManager, options: str
) -> None:
    manager.allocate({"cpu": 1}, pool="box", holder="other")
    process = python(_INTERRUPTED, path, options, measured=False)
    assert line_of(process) == "ready"
    (place,) = queued(manager)
    process.send_signal(signal.SIGINT)
    assert line_of(process) == "interrupted"
    assert end(process) == 0
    found = manager.get(place)
    if options == "{}":
        assert (found.state, found.ended_by) == ("ended", "withdrawn")
    else:
        assert found.state == "waiting"
    assert len(list(manager.events(type="task_started"))) == 1


# --- the bell ----------------------------------------------------------------------------------------


def test_a_bell_wakes_others_and_not_itself_and_clears_dead_sockets_away(tmp_path: Path) -> None:
    ledger = tmp_path / ("long" * 40) / "ledger.db"
    ledger.parent.mkdir()
    one, two = Bell(ledger), Bell(ledger)
    heard: list[str] = []
    rung = threading.Event()
    one.listen(lambda: (heard.append("one"), rung.set()))
    two.listen(lambda: (heard.append("two"), rung.set()))
    one.listen(lambda: heard.append("twice"))
    one.ring()
    assert rung.wait(10)
    assert heard == ["two"]
    stale = one.directory / "1-dead"
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        here = os.getcwd()
        os.chdir(one.directory)
        try:
            dead.bind(stale.name)
        finally:
            os.chdir(here)
    assert stale.exists()
    rung.clear()
    two.ring()
    assert rung.wait(10)
    assert heard == ["two", "one"]
    assert not stale.exists()
    assert len(list(one.directory.iterdir())) == 2
    one.close()
    one.close()
    two.close()
    assert list(one.directory.iterdir()) == []
    one.ring()


def test_a_listener_of_the_bell_that_fails_goes_on_listening(tmp_path: Path) -> None:
    one, two = Bell(tmp_path / "ledger.db"), Bell(tmp_path / "ledger.db")
    heard = threading.Semaphore(0)

    def fail() -> None:
        heard.release()
        raise ValueError("deaf")

    one.listen(fail)
    for _ in range(2):
        two.ring()
        assert heard.acquire(timeout=10)
    one.close()
    two.close()


def test_a_bell_that_is_rung_more_often_than_it_is_heard_holds_up_nobody(tmp_path: Path) -> None:
    one, two = Bell(tmp_path / "ledger.db"), Bell(tmp_path / "ledger.db")
    hearing, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        hearing.set()
        assert go_on.wait(30)

    one.listen(slow)
    for _ in range(2_000):
        two.ring()
    assert hearing.wait(10)
    go_on.set()
    one.close()
    two.close()


def test_a_bell_without_a_folder_to_write_in_is_silent(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "missing" / "ledger.db")
    bell.listen(lambda: None)
    bell.ring()
    bell.close()


def test_a_child_that_closes_its_copy_does_not_deafen_the_parent(tmp_path: Path) -> None:
    one, two = Bell(tmp_path / "ledger.db"), Bell(tmp_path / "ledger.db")
    heard = threading.Event()
    one.listen(heard.set)
    pid = os.fork()
    if pid == 0:
        one.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    two.ring()
    assert heard.wait(10)
    one.close()
    two.close()


def test_a_forked_child_rings_its_parent_and_can_listen_itself(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "ledger.db")
    heard = threading.Event()
    bell.listen(heard.set)
    back, forth = os.pipe()
    pid = os.fork()
    if pid == 0:
        woken = threading.Event()
        bell.listen(woken.set)
        bell.ring()
        os.write(forth, b"r")
        os._exit(0 if woken.wait(20) else 1)
    assert heard.wait(10)
    assert os.read(back, 1) == b"r"
    bell.ring()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    bell.close()
    os.close(back)
    os.close(forth)


def test_a_parent_that_waits_is_woken_by_its_forked_childs_release(
    path: Path, manager: ResourceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_module, "LOOK_FOR_CRASHES_EVERY_S", LONG_S)
    held = manager.allocate({"cpu": 1}, pool="box", holder="other")
    waiter = Waiting(lambda: manager.allocate({"cpu": 1}, pool="box", holder="me", wait=LONG_S))
    queued(manager)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            import faulthandler

            faulthandler.dump_traceback_later(20, exit=True, file=sys.__stderr__)
            held.release()
            manager.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert waiter.answer().state == "active"


# --- killed while it waits -----------------------------------------------------------------------------

_ASKER = """
import sys
import leasebook
manager = leasebook.open(sys.argv[1])
print("asks", flush=True)
manager.allocate({"cpu": 1}, pool="box", holder="asker", wait=60, **eval(sys.argv[2]))
"""


def killed(process: Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def asking(path: Path, manager: ResourceManager, options: str = "{}") -> tuple[Popen[str], str]:
    """Another process that blocks for the pool, which this one holds; and the id of its place."""
    manager.allocate({"cpu": 1}, pool="box", holder="other")
    process = python(_ASKER, path, options)
    assert line_of(process) == "asks"
    (place,) = queued(manager)
    return process, place


def test_a_place_of_a_caller_that_was_killed_is_given_up_with_evidence(
    path: Path, manager: ResourceManager
) -> None:
    process, place = asking(path, manager)
    assert crash(manager.ledger.writer).acted == 0
    killed(process)
    assert crash(manager.ledger.writer).acted == 1
    ended = manager.get(place)
    assert (ended.state, ended.ended_by) == ("ended", "crashed")
    (withdrawn,) = manager.events(type="withdrawn")
    assert withdrawn.body.evidence["pid"] == process.pid
    assert "it was asked for by" in withdrawn.body.reason
    assert crash(manager.ledger.writer).acted == 0
    end(process)


def test_a_place_stays_when_its_killed_caller_has_an_id_to_come_back_with(
    path: Path, manager: ResourceManager
) -> None:
    process, place = asking(path, manager, "{'command_id': 'mine'}")
    killed(process)
    assert crash(manager.ledger.writer).acted == 0
    assert manager.get(place).state == "waiting"
    end(process)


def test_a_place_that_another_process_waits_for_stays_when_its_first_caller_is_killed(
    path: Path, manager: ResourceManager
) -> None:
    process, place = asking(path, manager)
    assert manager.wait(place, timeout=0).state == "waiting"
    assert manager.wait(place, timeout=0).state == "waiting"
    assert len([*manager.events(type="queued")]) == 2
    killed(process)
    assert crash(manager.ledger.writer).acted == 0
    assert manager.get(place).state == "waiting"
    end(process)


def test_a_place_that_is_kept_for_later_depends_on_no_process(manager: ResourceManager) -> None:
    manager.allocate({"cpu": 1}, pool="box", holder="other")
    place = manager.allocate({"cpu": 1}, pool="box", wait=60, block=False)
    assert manager.ledger.writer.read(lambda book, _: book.allocations[place.id].asker) is None
