"""The writer when something fails: every caller is told, nothing changes, and the next command works.

The clock too: suspended machines, jumps, and what becomes of their findings in a commit that fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from ledger import commands as c
from ledger import work as work_module
from ledger import writer as writer_module
from ledger.clock import CLOCK_ALERT, ClockNote
from ledger.codec import UnknownEvent
from ledger.errors import LeasebookError, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable
from ledger.fields import book_digest, dump
from ledger.log import Log, Transaction
from ledger.memory_log import MemoryLog
from ledger.receipts import Receipt
from ledger.snapshots import Snapshots
from ledger.sqlite_log import SqliteLog
from ledger.verify import verify
from ledger.writer import Writer, begin
from tests.ledgers import (
    Clock,
    Ledger,
    allocate,
    check_whole,
    end,
    line_of,
    python,
    refolded,
    release,
    together,
)
from tests.rows import append


class FailingLog:
    """A log whose transactions fail where they are told to: ``begin``, ``append`` or ``commit``."""

    def __init__(self, log: Log) -> None:
        self.inner = log
        self.fail: str | None = None
        self.error: BaseException = LedgerUnavailable("the disk is gone")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def transaction(self) -> AbstractContextManager[Transaction]:
        return _Failing(self)


class _Failing:
    def __init__(self, log: FailingLog) -> None:
        self._log = log
        self._inner: Any = log.inner.transaction()

    def _fail_at(self, where: str) -> None:
        if self._log.fail == where:
            raise self._log.error

    def __enter__(self) -> Any:
        self._fail_at("begin")
        self._inner = self._inner.__enter__()
        self._context = self._inner
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._log.fail == "commit":
            failure = self._log.error
            self._context.__exit__(type(failure), failure, None)
            raise failure
        self._context.__exit__(kind, error, trace)

    def append(self, rows: Any) -> None:
        self._fail_at("append")
        self._inner.append(rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, request.param)
    made.pool(n1={"cpu": 8000})
    made.pool("tight", n1={"cpu": 1000})
    yield made
    made.close()


@pytest.fixture
def failing(ledger: Ledger) -> FailingLog:
    """The log of the ledger's writer, which can be made to fail."""
    log = FailingLog(ledger.writer.log)
    ledger.writer = ledger.another(log)  # type: ignore[arg-type]
    return log


def digest(writer: Writer) -> str:
    return writer.read(lambda book, now: book_digest(book))


# --- a commit that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["begin", "append", "commit"])
@pytest.mark.parametrize(
    "error",
    [
        LedgerUnavailable("no space left"),
        LedgerCorrupt("damaged", position=3),
        OSError(28, "No space left on device"),
        MemoryError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_failed_commit_gives_its_error_to_every_caller_and_changes_nothing(
    ledger: Ledger, failing: FailingLog, where: str, error: BaseException
) -> None:
    ledger.got(pool="tight", holder="h2")
    rows, before = list(failing.read()), digest(ledger.writer)
    failing.fail, failing.error = where, error
    commands = [
        allocate("a", 100),
        allocate("b", 100, pool="tight", wait=60),
        allocate("bad", 0),
        c.StartTask(command_id="t", task="t", by="h"),
    ]
    answers = together(ledger.writer, *commands)
    assert [answers[0], answers[1], answers[3]] == [error] * 3
    assert isinstance(answers[2], LeasebookError | type(error))
    assert list(failing.read()) == rows
    assert digest(ledger.writer) == before
    failing.fail = None
    again = together(ledger.writer, *commands)
    assert [again[0].outcome, again[1].outcome, again[3].outcome] == [
        "granted",
        "waiting",
        "task_started",
    ]
    assert not any(again[n].replayed for n in (0, 1, 3))
    check_whole(ledger.writer)


@pytest.mark.parametrize("where", ["begin", "append", "commit"])
def test_a_failure_that_comes_back_leaves_the_other_writers_unharmed(
    ledger: Ledger, failing: FailingLog, where: str
) -> None:
    other = ledger.another()
    failing.fail = where
    for number in range(3):
        with pytest.raises(LedgerUnavailable):
            ledger.ask(100)
        assert other.execute(allocate(f"o{number}", 100)).outcome == "granted"
    failing.fail = None
    assert ledger.ask(100).outcome == "granted"
    assert digest(other) == digest(ledger.writer)
    check_whole(ledger.writer)


def test_a_failed_commit_forgets_the_repeats_that_it_counted_and_keeps_those_before(
    ledger: Ledger, failing: FailingLog
) -> None:
    ledger.got(pool="tight", holder="h2")
    ledger.ask(pool="tight")
    ledger.ask(pool="tight")
    failing.fail = "commit"
    # The first refusal of h3 and its repeat fail together: nobody may count the repeat later.
    together(
        ledger.writer,
        *(allocate(f"x{n}", pool="tight", holder="h3") for n in range(3)),
        allocate("y", pool="tight"),
    )
    ledger.clock.run(2)
    with pytest.raises(LedgerUnavailable):
        ledger.do(c.StartTask(command_id="flushes", task="t", by="h"))
    failing.fail = None
    ledger.do(c.StartTask(command_id="flushes", task="t", by="h"))
    refused = [e.body for e in ledger.events() if e.type == "refused"]
    assert [(b.repeats, b.repeats_of is not None) for b in refused] == [(0, False), (1, True)]  # type: ignore[union-attr]
    check_whole(ledger.writer)


def test_a_failed_flush_at_the_close_closes_all_the_same(
    ledger: Ledger, failing: FailingLog
) -> None:
    ledger.got(pool="tight", holder="h2")
    ledger.ask(pool="tight")
    ledger.ask(pool="tight")
    closed: list[bool] = []
    inner_close = failing.inner.close
    failing.close = lambda: (closed.append(True), inner_close())  # type: ignore[attr-defined]
    failing.fail = "commit"
    with pytest.raises(LedgerUnavailable):
        ledger.writer.close()
    assert closed == [True]
    failing.fail = None
    ledger.writer._repeats.clear()


def test_an_unexpected_error_in_one_command_corrupts_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, before = list(ledger.writer.log.read()), digest(ledger.writer)
    take_step = work_module.take_step

    def faulty(book: Any, command: Any, *rest: Any) -> Any:
        step = take_step(book, command, *rest)
        if command.command_id == "poison":
            raise ZeroDivisionError("a fault in a rule, after the book has moved")
        return step

    monkeypatch.setattr(work_module, "take_step", faulty)
    answers = together(ledger.writer, allocate("a"), allocate("poison"), allocate("b"))
    assert all(isinstance(answer, ZeroDivisionError) for answer in answers)
    assert list(ledger.writer.log.read()) == rows
    assert digest(ledger.writer) == before
    assert [r.outcome for r in together(ledger.writer, allocate("a"), allocate("b"))] == [
        "granted",
        "granted",
    ]
    monkeypatch.undo()
    assert ledger.do(allocate("poison")).outcome == "granted"
    check_whole(ledger.writer)


def test_a_book_that_moved_without_an_event_is_never_committed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(ledger.writer.log.read())
    take_step = work_module.take_step

    def forgetful(book: Any, command: Any, *rest: Any) -> Any:
        step = take_step(book, command, *rest)
        if command.command_id == "forgotten":
            step.events = []
        return step

    monkeypatch.setattr(work_module, "take_step", forgetful)
    for commands in (
        [allocate("forgotten")],
        [allocate("a"), allocate("forgotten")],
    ):
        assert all(isinstance(a, RuntimeError) for a in together(ledger.writer, *commands))
    assert list(ledger.writer.log.read()) == rows
    monkeypatch.undo()
    assert ledger.do(allocate("a")).outcome == "granted"
    check_whole(ledger.writer)


@pytest.mark.parametrize("where", ["begin", "append", "commit"])
def test_an_interrupted_commit_is_an_honest_error_for_the_others_and_no_corruption(
    ledger: Ledger, failing: FailingLog, where: str
) -> None:
    rows = list(failing.read())
    failing.fail, failing.error = where, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        ledger.ask(100)
    assert list(failing.read()) == rows
    failing.fail = None
    assert ledger.ask(100).outcome == "granted"
    check_whole(ledger.writer)


def test_an_interrupt_just_after_the_commit_does_not_part_the_book_from_its_hash(
    ledger: Ledger, failing: FailingLog
) -> None:
    class Interrupted(_Failing):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            if failing.fail == "after":
                raise KeyboardInterrupt

    failing.transaction = lambda: Interrupted(failing)  # type: ignore[method-assign]
    failing.fail = "after"
    with pytest.raises(KeyboardInterrupt):
        ledger.do(allocate("a", 100))
    failing.fail = None
    again = ledger.do(allocate("a", 100))
    assert (again.outcome, again.replayed) == ("granted", True)
    ledger.got(100)
    check_whole(ledger.writer)


def test_readers_wait_for_the_commit_under_way_and_never_see_it_before(
    ledger: Ledger, failing: FailingLog
) -> None:
    held, go = threading.Event(), threading.Event()

    class Slow(_Failing):
        def append(self, rows: Any) -> None:
            super().append(rows)
            held.set()
            assert go.wait(20)

    failing.transaction = lambda: Slow(failing)  # type: ignore[method-assign]
    before = failing.head().position
    told: list[BaseException] = []

    def ask() -> None:
        try:
            ledger.ask(100)
        except LedgerUnavailable as error:
            told.append(error)

    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    assert held.wait(20)
    seen: list[int] = []
    reader = threading.Thread(
        target=lambda: seen.append(ledger.writer.read(lambda book, now: book.position)), daemon=True
    )
    reader.start()
    # Another writer of the same log sees what is committed, and does not wait.
    assert ledger.another().read(lambda book, now: book.position) == before
    assert seen == []
    failing.fail, failing.error = "commit", LedgerUnavailable("gone after all")
    go.set()
    reader.join(20)
    caller.join(20)
    assert seen == [before]
    assert told == [failing.error]


# --- real faults of a real disk ----------------------------------------------------------------------


def test_a_full_disk_is_an_error_for_all_in_the_batch_and_then_there_is_room(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path, "sqlite")
    ledger.pool(n1={"cpu": 8000})
    assert isinstance(ledger.writer.log, SqliteLog)
    raw = ledger.writer.log._files.writer()
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    rows, before = list(ledger.writer.log.read()), digest(ledger.writer)
    big = {"note": "x" * 12_000}
    answers = together(ledger.writer, *(allocate(f"a{n}", 10, metadata=big) for n in range(8)))
    assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
    assert not any(isinstance(answer, LedgerReadOnly) for answer in answers)
    assert list(ledger.writer.log.read()) == rows
    assert digest(ledger.writer) == before
    raw.execute("PRAGMA max_page_count = 1000000").fetchall()
    answers = together(ledger.writer, *(allocate(f"a{n}", 10, metadata=big) for n in range(8)))
    assert [answer.outcome for answer in answers] == ["granted"] * 8
    check_whole(ledger.writer)
    ledger.close()


_FULL = """
import resource, sys
from pathlib import Path
from ledger.errors import LedgerUnavailable
from tests.ledgers import Ledger, allocate, check_whole
ledger = Ledger(Path(sys.argv[1]), "sqlite")
ledger.pool(n1={"cpu": 10_000_000})
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
granted, failed = [], []
for number in range(150):
    try:
        granted.append(ledger.do(allocate(f"a{number}", 1, metadata={"x": "y" * 3_000})).allocation.id)
    except LedgerUnavailable:
        failed.append(number)
assert granted and failed, (len(granted), len(failed))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for number in failed:
    assert not ledger.do(allocate(f"a{number}", 1, metadata={"x": "y" * 3_000})).replayed
book = check_whole(ledger.writer)
assert len(book.allocations) == 150
assert set(granted) <= set(book.allocations)
print("whole")
"""


def test_what_was_granted_before_the_disk_was_full_is_held_and_the_rest_can_be_asked_again(
    tmp_path: Path,
) -> None:
    process = python(_FULL, tmp_path)
    assert line_of(process) == "whole"
    assert end(process) == 0


# --- what cannot be written --------------------------------------------------------------------------


@pytest.fixture
def newer(ledger: Ledger) -> Ledger:
    """A ledger in which a newer program has written an event of a type that is unknown here."""
    ledger.got(100)
    append(ledger.writer.log, {"type": "quantum_entangled", "recorded_at": 2**62, "at": 2**62})
    return ledger


def test_an_event_of_an_unknown_type_makes_the_ledger_read_only_with_a_clear_error(
    newer: Ledger,
) -> None:
    head = newer.writer.log.head()
    for writer in (newer.writer, newer.another()):
        for act in (
            lambda w=writer: w.execute(allocate("a", 100)),
            lambda w=writer: w.execute(release("r", "A3")),
            lambda w=writer: w.read(lambda book, now: None),
            lambda w=writer: w.settle(),
        ):
            with pytest.raises(UnknownEvent, match="quantum_entangled") as caught:
                act()
            assert isinstance(caught.value, LedgerReadOnly)
            assert "upgrade" in caught.value.hint
    assert newer.writer.log.head() == head


def test_a_log_with_unknown_events_is_still_read_as_rows_and_proved_whole(newer: Ledger) -> None:
    rows = list(newer.writer.log.read())
    assert rows[-1].type == "quantum_entangled"
    assert verify(newer.writer.log).ok


def test_a_ledger_opened_for_reading_is_read_and_a_command_says_that_it_cannot_be_written(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path, "sqlite")
    ledger.pool(n1={"cpu": 8000})
    allocation = ledger.got(100, ttl=10)
    reader = Writer(SqliteLog.open(ledger.path, read_only=True), clock=ledger.clock)
    assert reader.read(lambda book, now: list(book.allocations)) == [allocation]
    for _ in range(2):
        with pytest.raises(LedgerReadOnly, match="reading only") as caught:
            reader.execute(allocate("a", 100))
        assert caught.value.hint
    with pytest.raises(LedgerReadOnly):
        asyncio.run(reader.execute_async(allocate("a", 100)))
    ledger.clock.run(11)
    # Nothing can be written down here; it counts as ended all the same.
    reader.settle()
    late = reader.present(allocation)
    assert late is not None
    assert late.ended_by == "expired"
    reader.close()
    ledger.close()


def test_a_log_that_contradicts_itself_is_damage_and_no_refusal(ledger: Ledger) -> None:
    ledger.got(100)
    book = refolded(ledger.writer.log)
    append(
        ledger.writer.log,
        {
            "type": "released",
            "allocation": "A99",
            "pool": "box",
            "data": {"by": "h1"},
            "recorded_at": book.recorded_at + 1,
        },
    )
    for _ in range(2):
        with pytest.raises(LedgerCorrupt) as caught:
            ledger.ask(100)
        assert caught.value.position == book.position + 1


# --- the clock ---------------------------------------------------------------------------------------


def alerts(ledger: Ledger) -> list[str]:
    return [kind for kind in ledger.types() if kind.startswith("alert")]


def lease_end(ledger: Ledger, allocation: str) -> int:
    found = ledger.writer.present(allocation)
    assert found is not None
    assert found.lease_until is not None
    return found.lease_until


def test_a_wall_clock_that_jumps_an_hour_ahead_ends_nothing_and_raises_one_alert(
    ledger: Ledger,
) -> None:
    allocation = ledger.got(100, ttl=600)
    ledger.clock.set_wall(3_600)
    for _ in range(3):
        ledger.clock.run(1)
        ledger.got(10)
    assert ledger.state(allocation) == "active"
    assert alerts(ledger) == ["alert_raised"]
    ledger.clock.run(600)
    assert ledger.state(allocation) == "ended"
    check_whole(ledger.writer)


def test_accepting_the_jump_moves_ledger_time_and_extends_the_leases(ledger: Ledger) -> None:
    allocation = ledger.got(100, ttl=600)
    before = lease_end(ledger, allocation)
    ledger.clock.set_wall(3_600)
    ledger.got(10)
    ledger.do(c.ClearAlert(command_id="accept", alert=CLOCK_ALERT, by="op"))
    ledger.clock.run(1)
    ledger.got(10)
    assert ledger.types().count("time_extended") == 1
    # The jump less the second that passed, to the few nanoseconds that commits added.
    assert abs(lease_end(ledger, allocation) - before - 3_600 * 10**9) < 2 * 10**9
    assert ledger.writer.log.head().recorded_at >= ledger.clock.reading.wall
    ledger.clock.run(595)
    assert ledger.state(allocation) == "active"
    ledger.clock.run(10)
    assert ledger.state(allocation) == "ended"
    assert alerts(ledger) == ["alert_raised", "alert_cleared"]
    check_whole(ledger.writer)


def test_a_wall_clock_that_is_set_back_neither_stops_nor_turns_ledger_time(ledger: Ledger) -> None:
    allocation = ledger.got(100, ttl=600)
    before = ledger.writer.log.head().recorded_at
    ledger.clock.set_wall(-86_400)
    ledger.clock.run(599)
    assert ledger.state(allocation) == "active"
    ledger.got(10)
    assert ledger.writer.log.head().recorded_at - before > 598 * 10**9
    assert alerts(ledger) == ["alert_raised"]
    ledger.clock.run(2)
    assert ledger.state(allocation) == "ended"
    check_whole(ledger.writer)


def test_time_slept_through_ends_no_lease_and_is_on_record(ledger: Ledger) -> None:
    allocation = ledger.got(100, ttl=600)
    ledger.got(pool="tight", holder="h2", ttl=5_000)
    queued = ledger.ask(pool="tight", wait=300)
    assert queued.allocation is not None
    ledger.clock.sleep(7_200)
    # A reader comes before any writer does: it must not see an end that nobody will write down.
    assert ledger.state(allocation) == "active"
    assert ledger.state(queued.allocation.id) == "waiting"
    ledger.got(10)
    assert ledger.types().count("time_extended") == 1
    ledger.clock.run(590)
    assert ledger.state(allocation) == "active"
    assert ledger.state(queued.allocation.id) == "ended"
    ledger.clock.run(20)
    assert ledger.state(allocation) == "ended"
    check_whole(ledger.writer)


@pytest.mark.parametrize("where", ["append", "commit"])
def test_time_slept_through_is_not_lost_with_the_commit_that_found_it(
    ledger: Ledger, failing: FailingLog, where: str
) -> None:
    allocation = ledger.got(100, ttl=600)
    ledger.clock.sleep(7_200)
    failing.fail = where
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            ledger.ask(10)
    failing.fail = None
    assert ledger.another().execute(allocate("other", 10)).outcome == "granted"
    assert ledger.state(allocation) == "active"
    assert ledger.types().count("time_extended") == 1
    assert "expired" not in ledger.types()
    check_whole(ledger.writer)


def test_a_jump_is_accepted_only_by_a_commit_that_holds(
    ledger: Ledger, failing: FailingLog
) -> None:
    allocation = ledger.got(100, ttl=600)
    ledger.clock.set_wall(3_600)
    ledger.got(10)
    accept = c.ClearAlert(command_id="accept", alert=CLOCK_ALERT, by="op")
    failing.fail = "commit"
    with pytest.raises(LedgerUnavailable):
        ledger.do(accept)
    failing.fail = None
    ledger.got(10)
    assert "time_extended" not in ledger.types()
    ledger.do(accept)
    failing.fail = "commit"
    with pytest.raises(LedgerUnavailable):
        ledger.ask(10)
    failing.fail = None
    ledger.got(10)
    assert ledger.types().count("time_extended") == 1
    assert ledger.state(allocation) == "active"
    check_whole(ledger.writer)


def test_a_note_that_another_writer_has_left_since_is_not_put_back(
    ledger: Ledger, failing: FailingLog
) -> None:
    other = ledger.another()
    notes: list[bytes] = []

    class Beaten(_Failing):
        def __exit__(self, *error: Any) -> None:
            try:
                super().__exit__(*error)
            finally:
                if failing.fail is not None:
                    failing.fail = None
                    ledger.clock.run(60)
                    other.execute(allocate("between", 10))
                    notes.append(failing.gate.read_note())

    ledger.got(10)
    failing.transaction = lambda: Beaten(failing)  # type: ignore[method-assign]
    ledger.clock.sleep(7_200)
    failing.fail = "commit"
    with pytest.raises(LedgerUnavailable):
        ledger.ask(10)
    assert notes == [failing.gate.read_note()]
    ledger.got(10)
    check_whole(ledger.writer)


def test_the_first_event_of_all_is_written_whatever_the_clock_says(tmp_path: Path) -> None:
    log = MemoryLog()
    log.gate.write_note(ClockNote(5, 5, 5, 0, False, "boot-1").pack())
    clock = Clock()
    writer = Writer(log, clock=clock)
    clock.sleep(100)
    begin(log, "new", writer)
    assert [row.type for row in log.read()] == ["ledger_opened"]


def test_many_ends_at_once_are_written_down_in_pieces_before_the_next_command(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ledger import step as step_module

    settle = step_module.settle_due
    pieces: list[int] = []

    def bounded(book: Any, now: int, **how: Any) -> Any:
        events = settle(book, now, 7, **how)
        pieces.append(len(events))
        return events

    for module in (work_module, writer_module):
        monkeypatch.setattr(module, "settle_due", bounded)
    together(ledger.writer, *(allocate(f"a{n}", 10, ttl=5) for n in range(40)))
    ledger.clock.run(6)
    before = ledger.writer.log.head().position
    receipt: Receipt = ledger.ask(8_000)
    assert receipt.outcome == "granted"
    assert max(pieces) <= 7
    rows = list(ledger.writer.log.read(before))
    assert [row.type for row in rows] == ["expired"] * 40 + ["allocated"]
    instants = sorted({row.recorded_at for row in rows})
    assert len(instants) == 6
    check_whole(ledger.writer)


# --- forks -------------------------------------------------------------------------------------------


def in_child(act: Callable[[], object]) -> int:
    """Run in a forked child; its exit code, 0 when ``act`` came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, "sqlite")
    made.pool(n1={"cpu": 8000})
    made.pool("tight", n1={"cpu": 1000})
    yield made
    made.close()


def test_parent_and_child_both_use_the_writer_after_a_fork(forking: Ledger) -> None:
    mine = forking.got(100)

    def child() -> None:
        assert forking.state(mine) == "active"
        assert forking.do(allocate("child", 200)).outcome == "granted"
        assert asyncio.run(forking.writer.execute_async(allocate("task", 300))).outcome == "granted"
        forking.writer.close()

    assert in_child(child) == 0
    assert forking.do(allocate("child", 200)).replayed
    assert forking.do(allocate("parent", 400)).outcome == "granted"
    book = check_whole(forking.writer)
    assert sorted(a.amounts["cpu"] for a in book.allocations.values()) == [100, 200, 300, 400]


def test_a_child_forked_while_threads_write_and_read_is_not_left_waiting_for_them(
    forking: Ledger,
) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def busy(act: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                act()
        except BaseException as error:
            errors.append(error)

    numbers = iter(range(10**6))
    threads = [
        threading.Thread(
            target=busy, args=(lambda: forking.do(allocate(f"p{next(numbers)}", 1)),), daemon=True
        ),
        threading.Thread(
            target=busy,
            args=(lambda: forking.writer.read(lambda book, now: len(book.allocations)),),
            daemon=True,
        ),
    ]
    for thread in threads:
        thread.start()
    children = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                import faulthandler

                faulthandler.dump_traceback_later(30, exit=True)
                receipt = forking.do(allocate(f"c{number}", 1))
                code = 0 if receipt.outcome == "granted" else 3
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    stop.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert codes == [0] * 6
    for number in range(6):
        assert forking.do(allocate(f"c{number}", 1)).replayed
    check_whole(forking.writer)


def test_a_child_forked_while_snapshots_are_saved_and_loaded_is_not_left_hanging(
    forking: Ledger,
) -> None:
    # SQLite's own locks are copied with the process: without a pause one child in ten hung.
    snapshots = Snapshots(forking.path)
    head = forking.writer.log.head()
    data = forking.writer.read(lambda book, now: dump(book))
    stop = threading.Event()

    def busy(act: Callable[[], object]) -> None:
        while not stop.is_set():
            act()

    acts = (lambda: snapshots.save(head, data), lambda: snapshots.newest(lambda _: head))
    threads = [threading.Thread(target=busy, args=(act,), daemon=True) for act in (*acts, acts[0])]
    for thread in threads:
        thread.start()

    def child() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        assert Snapshots(forking.path).newest(lambda _: head) is not None
        assert forking.ask(1).outcome == "granted"

    try:
        assert [in_child(child) for _ in range(40)] == [0] * 40
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_repeats_that_the_parent_counted_are_written_by_the_parent_alone(forking: Ledger) -> None:
    forking.got(pool="tight", holder="h2")
    for _ in range(4):
        forking.ask(pool="tight")
    assert in_child(forking.writer.close) == 0
    forking.reopen()
    counted = [e.body for e in forking.events() if e.type == "refused"]
    assert [body.repeats for body in counted] == [0, 3]  # type: ignore[union-attr]
