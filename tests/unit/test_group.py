"""Group commit: who shares a transaction, who leads it, and what happens to the others when it fails
or when the one who leads is interrupted, wherever that is."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from ledger import group as group_module
from ledger.commands import AnyCommand, StartTask
from ledger.errors import LedgerUnavailable, LimitExceeded
from ledger.group import Group, Ticket

PATIENCE_S = 20.0


def command(name: str) -> AnyCommand:
    return StartTask(command_id=name, task=name, by="h")


class Disk:
    """Commits by remembering; can be held, and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None

    def commit(self, tickets: list[Ticket]) -> None:
        self.entered.release()
        assert self.free.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.batches.append([ticket.command.command_id for ticket in tickets])
        for ticket in tickets:
            ticket.receipt = f"done {ticket.command.command_id}"


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def group(disk: Disk) -> Iterator[Group]:
    made = Group(disk.commit)
    yield made
    disk.free.set()
    made.close()


class Caller(threading.Thread):
    """A thread that asks once and keeps what it got."""

    def __init__(self, group: Group, name: str) -> None:
        super().__init__(daemon=True)
        self.got: Any = None
        self._ask = lambda: group.execute(command(name))
        self.start()

    def run(self) -> None:
        try:
            self.got = self._ask()
        except BaseException as error:
            self.got = error

    def answer(self) -> Any:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "a caller was left waiting"
        return self.got


def queued(group: Group, count: int) -> None:
    """Wait until so many stand in line."""
    for _ in range(int(PATIENCE_S * 1000)):
        if len(group._pending) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError("the line never got that long")


def line_up(group: Group, names: list[str], before: int = 0) -> list[Caller]:
    callers = []
    for number, name in enumerate(names):
        callers.append(Caller(group, name))
        queued(group, before + number + 1)
    return callers


def test_a_lone_caller_leads_its_own_commit(group: Group, disk: Disk) -> None:
    assert group.execute(command("a")) == "done a"
    assert group.execute(command("b")) == "done b"
    assert disk.batches == [["a"], ["b"]]


def test_callers_that_come_during_a_commit_share_the_next_one_in_order(
    group: Group, disk: Disk
) -> None:
    disk.free.clear()
    first = Caller(group, "first")
    disk.entered.acquire()
    others = line_up(group, ["a", "b", "c"])
    disk.free.set()
    assert [c.answer() for c in (first, *others)] == ["done first", "done a", "done b", "done c"]
    assert disk.batches == [["first"], ["a", "b", "c"]]


def test_one_transaction_takes_no_more_than_its_bound(
    group: Group, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "BATCH_MAX", 2)
    disk.free.clear()
    first = Caller(group, "first")
    disk.entered.acquire()
    others = line_up(group, list("abcde"))
    disk.free.set()
    for caller in (first, *others):
        assert str(caller.answer()).startswith("done")
    assert disk.batches == [["first"], ["a", "b"], ["c", "d"], ["e"]]


def test_a_line_that_is_too_long_turns_callers_away(
    group: Group, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "PENDING_MAX", 2)
    disk.free.clear()
    first = Caller(group, "first")
    disk.entered.acquire()
    others = line_up(group, ["a", "b"])
    with pytest.raises(LimitExceeded, match="wait for the ledger"):
        group.execute(command("one too many"))
    disk.free.set()
    assert [c.answer() for c in (first, *others)] == ["done first", "done a", "done b"]
    assert group.execute(command("later")) == "done later"


def test_a_failed_commit_gives_every_caller_of_its_batch_the_error_and_no_other(
    group: Group, disk: Disk
) -> None:
    disk.free.clear()
    first = Caller(group, "first")
    disk.entered.acquire()
    others = line_up(group, ["a", "b"])
    disk.error = LedgerUnavailable("no space left")
    disk.free.set()
    assert [c.answer() for c in (first, *others)] == [disk.error] * 3
    disk.error = None
    assert group.execute(command("later")) == "done later"


def test_an_interrupted_leader_leaves_the_others_an_honest_error_and_the_line_moving(
    group: Group, disk: Disk
) -> None:
    disk.free.clear()
    disk.error = KeyboardInterrupt()
    first = Caller(group, "first")
    disk.entered.acquire()
    others = line_up(group, ["a", "b"])
    disk.free.set()
    assert isinstance(first.answer(), KeyboardInterrupt)
    # Whoever led the second batch was interrupted too; the other was told.
    assert isinstance(others[0].answer(), KeyboardInterrupt)
    told = others[1].answer()
    assert isinstance(told, LedgerUnavailable)
    assert "same command id" in told.hint
    disk.error = None
    assert group.execute(command("later")) == "done later"


# --- an interrupt at any line ------------------------------------------------------------------------


FILE = inspect.getfile(group_module)


def is_with(frame: FrameType) -> bool:
    """Whether the line opens or closes a lock. Between a block and the end of its lock the
    interpreter lets no signal in, though it does trace the line."""
    return linecache.getline(FILE, frame.f_lineno).strip().startswith("with ")


def interrupted_at(lines_until: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` and raise KeyboardInterrupt in this thread at the n-th line of the group that
    it comes to. Whether it got that far."""
    left = lines_until

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != FILE:
            return None
        if event == "line" and not is_with(frame):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    except LedgerUnavailable:
        return left <= 0
    finally:
        sys.settrace(before)
    return left <= 0


def lines_of(action: Callable[[], Any]) -> int:
    """How many lines of the group an undisturbed call comes to."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != FILE:
            return None
        count += event == "line" and not is_with(frame)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def test_an_interrupt_at_any_line_of_a_lone_caller_leaves_the_line_free() -> None:
    count = lines_of(lambda: Group(Disk().commit).execute(command("x")))
    assert count > 10
    for number in range(1, count + 1):
        disk = Disk()
        group = Group(disk.commit)
        interrupted_at(number, lambda group=group: group.execute(command("x")))  # type: ignore[misc]
        assert Caller(group, "next").answer() == "done next", f"stuck after line {number}"
        assert disk.batches[-1] == ["next"]
        assert len(disk.batches) <= 2


def test_an_interrupt_at_any_line_of_a_leader_leaves_nobody_waiting() -> None:
    number = 0
    reached = True
    while reached:
        number += 1
        disk = Disk()
        group = Group(disk.commit)
        followers: list[Caller] = []

        def commit(
            tickets: list[Ticket],
            disk: Disk = disk,
            group: Group = group,
            followers: list[Caller] = followers,
        ) -> None:
            if not followers:
                # While the first commit is under way two more come in.
                followers.extend(line_up(group, ["a", "b"]))
            disk.commit(tickets)

        group._commit = commit
        reached = interrupted_at(number, lambda group=group: group.execute(command("x")))  # type: ignore[misc]
        for follower in followers:
            assert follower.answer() in ("done a", "done b"), f"line {number}"
        assert Caller(group, "next").answer() == "done next", f"stuck after line {number}"
    assert number > 10


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt in the main thread, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_of_one_who_waits_in_line_takes_it_out_of_the_line(
    group: Group, disk: Disk
) -> None:
    assert threading.current_thread() is threading.main_thread()
    disk.free.clear()
    first = Caller(group, "first")
    disk.entered.acquire()

    def interrupt() -> None:
        queued(group, 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        group.execute(command("given up"))
    interrupter.join(PATIENCE_S)
    assert group._pending == []
    disk.free.set()
    assert first.answer() == "done first"
    assert group.execute(command("later")) == "done later"
    assert disk.batches == [["first"], ["later"]]


# --- asyncio -----------------------------------------------------------------------------------------


async def test_tasks_of_one_turn_share_a_transaction(group: Group, disk: Disk) -> None:
    answers = await asyncio.gather(*(group.execute_async(command(n)) for n in "abc"))
    assert answers == ["done a", "done b", "done c"]
    assert disk.batches == [["a", "b", "c"]]


async def test_threads_and_tasks_stand_in_one_line(group: Group, disk: Disk) -> None:
    disk.free.clear()
    first = Caller(group, "thread")
    await asyncio.to_thread(disk.entered.acquire)
    tasks = [asyncio.create_task(group.execute_async(command(n))) for n in "ab"]
    await asyncio.sleep(0)
    queued(group, 2)
    (last,) = line_up(group, ["c"], before=2)
    disk.free.set()
    assert await asyncio.gather(*tasks) == ["done a", "done b"]
    assert [first.answer(), last.answer()] == ["done thread", "done c"]
    assert disk.batches == [["thread"], ["a", "b", "c"]]


async def test_a_task_that_is_cancelled_leaves_its_command_to_be_carried_out(
    group: Group, disk: Disk
) -> None:
    disk.free.clear()
    tasks = [asyncio.create_task(group.execute_async(command(n))) for n in "ab"]
    await asyncio.to_thread(disk.entered.acquire)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    disk.free.set()
    assert await tasks[1] == "done b"
    assert disk.batches == [["a", "b"]]


async def test_a_failed_commit_is_every_tasks_error(group: Group, disk: Disk) -> None:
    disk.error = LedgerUnavailable("gone")
    answers = await asyncio.gather(
        *(group.execute_async(command(n)) for n in "ab"), return_exceptions=True
    )
    assert answers == [disk.error] * 2
    disk.error = None
    assert await group.execute_async(command("c")) == "done c"


async def test_a_leader_for_tasks_that_is_interrupted_leaves_an_honest_error_and_the_line_moving(
    group: Group, disk: Disk
) -> None:
    disk.error = SystemExit()
    answers = await asyncio.gather(
        *(group.execute_async(command(n)) for n in "ab"), return_exceptions=True
    )
    assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
    disk.error = None
    assert await group.execute_async(command("c")) == "done c"


def test_a_loop_that_is_closed_in_the_middle_of_a_commit_holds_up_nobody(
    group: Group, disk: Disk
) -> None:
    disk.free.clear()
    loop = asyncio.new_event_loop()
    task = loop.create_task(group.execute_async(command("a")))
    loop.run_until_complete(asyncio.sleep(0.01))
    disk.entered.acquire()
    others = line_up(group, ["b"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    disk.free.set()
    assert others[0].answer() == "done b"
    assert disk.batches == [["a"], ["b"]]


def test_a_loop_that_stopped_before_its_next_turn_holds_up_nobody(group: Group, disk: Disk) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(group.execute_async(command("a")))
    # One turn: the task enters the line, and would have it led from the next turn, which never comes.
    loop.call_soon(loop.stop)
    loop.run_forever()
    queued(group, 1)
    assert Caller(group, "b").answer() == "done b"
    assert disk.batches == [["a", "b"]]
    # When the loop does go on, it finds its command done.
    assert loop.run_until_complete(task) == "done a"
    loop.close()


def test_the_group_goes_on_after_it_was_closed(group: Group, disk: Disk) -> None:
    assert asyncio.run(group.execute_async(command("a"))) == "done a"
    group.close()
    group.close()
    assert asyncio.run(group.execute_async(command("b"))) == "done b"
    assert group.execute(command("c")) == "done c"


def test_a_thread_that_cannot_be_started_is_done_without(
    group: Group, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    assert asyncio.run(group.execute_async(command("a"))) == "done a"
