"""The writer: the only impure flow. It takes commands in, and commits what :mod:`ledger.step` makes.

One transaction: pass the gate, read what other processes have added, tell the time, write down what
is due, take each command's step, append, commit. If the commit fails the book is thrown away and
read again, and every caller in the batch gets the error. Readers never see a book ahead of its
commit: they wait for the one under way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from threading import RLock
from typing import TypeVar
from weakref import WeakSet

from ledger import clock as clocks
from ledger.advance import GRANTS, advance
from ledger.book import Allocation, Book
from ledger.codec import UnknownEvent, from_row
from ledger.commands import AnyCommand, OpenLedger
from ledger.errors import LeasebookError, LedgerCorrupt, LedgerUnavailable
from ledger.events import Checkpointed, Event
from ledger.fold import fold, fold_many
from ledger.group import Group, Ticket
from ledger.log import EMPTY, Head, Log, Row
from ledger.receipts import Receipt, fold_allocation
from ledger.snapshots import Snapshots
from ledger.step import is_due, note, settle_due
from ledger.work import Repeats, Work, extensions

T = TypeVar("T")

CHECKPOINT_EVERY = 4_096
"""Events between two digests of the book in the log, and between two snapshots beside it."""

LOOKED_UP_AT_ONCE = 4
"""From as many commands on, one query for all of their ids is quicker than one for each."""

Listener = Callable[[list[Event]], None]


class Writer:
    """Executes commands on a log. Threads and asyncio tasks may share one.

    ``clock`` reads the machine's clocks; ``snapshots`` keeps cached books (None: none are kept);
    ``wake_others`` is called after a commit that changed what somebody waits for or may have lost.
    """

    def __init__(
        self,
        log: Log,
        *,
        clock: Callable[[], clocks.Reading] | None = None,
        snapshots: Snapshots | None = None,
        wake_others: Callable[[], None] | None = None,
    ) -> None:
        self.log = log
        self.snapshots = snapshots
        self._clock = clock or clocks.machine_clock()
        self._wake_others = wake_others
        self._group = Group(self._commit)
        self._listeners: list[Listener] = []
        self._told = 0
        self._start_anew()
        _WRITERS.add(self)
        self._last_note: tuple[bytes, clocks.ClockNote | None] = (b"", None)

    def _start_anew(self) -> None:
        """Begin as at first, or in a forked child: without the threads that might hold a lock, and
        without what the parent has counted and will write down itself."""
        self._lock = RLock()
        self._telling = RLock()
        self._book: Book | None = None
        self._hash = EMPTY.hash
        self._repeats: Repeats = {}

    # --- what callers use ------------------------------------------------------------------------

    def execute(self, command: AnyCommand) -> Receipt:
        """Carry a command out and return its receipt, durably committed.

        Raises InvalidInput for what can never be right, LedgerUnavailable when the infrastructure
        fails, LedgerCorrupt when the record is damaged. A refusal is a receipt, not an exception.
        """
        receipt: Receipt = self._group.execute(command)
        return receipt

    async def execute_async(self, command: AnyCommand) -> Receipt:
        """As :meth:`execute`, awaited."""
        receipt: Receipt = await self._group.execute_async(command)
        return receipt

    def read(self, question: Callable[[Book, int], T]) -> T:
        """Ask the present book: ``question(book, now)``. The book must not be kept or changed.

        What is due by now counts as ended, whether or not anybody has written that down.
        """
        with self._lock:
            book, now, _ = self._as_of_now()
            return question(book, now)

    def glance(self) -> Book | None:
        """The book as this process knows it, without waiting for a commit under way; or None.

        It may be behind the log, and changes under the reader's hands: only for looking one thing up.
        """
        return self._book

    def present(self, allocation: str) -> Allocation | None:
        """An allocation's present state, ended ones included; None where there is none.

        As for :meth:`read`, what is due by now counts as ended.
        """
        with self._lock:
            before = self._catch_up(self.log.read).allocations.get(allocation)
            if before is not None:
                book, _, unwritten = self._as_of_now()
                for event in unwritten:
                    if event.allocation == allocation:
                        before = advance(before, event) or before
                return book.allocations.get(allocation, before)
        return fold_allocation(map(from_row, self.log.rows_of_allocation(allocation)))

    def settle(self) -> None:
        """Write down what time has ended, if anything is due. Callable at any time, by anyone."""
        if self.log.read_only_reason is None and self._is_late():
            self._commit([])

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be called with all events from now on, each once and in order, as they become known here.

        Returns how to stop it. A listener must not call back into the writer.
        """
        with self._telling:
            if not self._listeners:
                self._told = self.log.head().position
            self._listeners.append(listener)

        def stop() -> None:
            with self._telling:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def refresh(self) -> None:
        """Read what other processes have added, and tell the listeners."""
        with self._lock:
            position = self._catch_up(self.log.read).position
        if self._listeners and position > self._told:
            self._tell([from_row(row) for row in self.log.read(self._told, position)])

    def close(self) -> None:
        """Record what was only counted, and let go of threads and files."""
        self._group.close()
        try:
            if self._repeats and self.log.read_only_reason is None:
                self._commit([], flush=True)
        finally:
            self.log.close()

    # --- the book --------------------------------------------------------------------------------

    def _as_of_now(self) -> tuple[Book, int, list[Event]]:
        """The book with all that is due counted as ended, ledger time, and the events for that,
        which nobody has written down yet."""
        book = self._catch_up(self.log.read)
        tick = clocks.tell(self._clock(), self._note(), book.recorded_at)
        events: list[Event] = []
        if is_due(book, tick.now):
            book = book.fork()
            # Time in which nobody could renew does not count, for a reader neither.
            for extension in extensions(tick):
                events += note(book, extension, tick.now)
            while is_due(book, tick.now):
                events += settle_due(book, tick.now, grant=False)
        return book, tick.now, events

    def _is_late(self) -> bool:
        with self._lock:
            book = self._catch_up(self.log.read)
            return is_due(book, clocks.tell(self._clock(), self._note(), book.recorded_at).now)

    def _note(self) -> clocks.ClockNote | None:
        """The clock's note beside the log, read again only where it has changed."""
        raw = self.log.gate.read_note()
        if raw != self._last_note[0]:
            self._last_note = (raw, clocks.unpack(raw))
        return self._last_note[1]

    def _known(self, position: int) -> Head | None:
        for row in self.log.read(position - 1, position):
            return Head(row.position, row.hash, row.recorded_at)
        return None

    def _digest_after(self, position: int) -> str | None:
        """What the log says that the book at a position adds up to, where it says so."""
        for row in self.log.read(position, position + 1):
            body = from_row(row).body
            return body.book if isinstance(body, Checkpointed) else None
        return None

    def _catch_up(self, read: Callable[[int], Iterable[Row]]) -> Book:
        """The book at the log's head. Whatever goes wrong, the next call starts anew."""
        book = self._book
        if book is None:
            book = Book()
            if self.snapshots is not None:
                book = self.snapshots.newest(self._known, proof=self._digest_after) or book
                if book.position:
                    head = self._known(book.position)
                    self._hash = EMPTY.hash if head is None else head.hash
            if not book.position:
                self._hash = EMPTY.hash
        many = self._book is None
        self._book = None
        last = (fold_many if many else fold)(book, read(book.position))
        if last is not None:
            self._hash = last.hash
        self._book = book
        return book

    # --- one transaction -------------------------------------------------------------------------

    def _commit(self, tickets: list[Ticket], flush: bool = False) -> None:
        """Settle a batch of tickets in as many transactions as what is due takes, mostly one."""
        self.log.require_writable()
        done = False
        while not done:
            work: Work | None = None
            with self._lock:
                try:
                    with self.log.transaction() as transaction:
                        book = self._catch_up(transaction.read)
                        work = Work(
                            transaction,
                            book,
                            self._hash,
                            self.log.gate,
                            self._note(),
                            self._clock(),
                            self._repeats,
                        )
                        done = work.prepare(flush, CHECKPOINT_EVERY)
                        if done:
                            if len(tickets) >= LOOKED_UP_AT_ONCE:
                                work.look_up([ticket.command for ticket in tickets])
                            for ticket in tickets:
                                work.carry_out(ticket)
                        data = work.append()
                    # In here, so that no interrupt leaves the book with another one's hash.
                    self._hash, self._repeats = work.head.hash, work.repeats
                except BaseException:
                    self.log.abandon()
                    self._book = None
                    for ticket in tickets:
                        ticket.receipt = None
                    if work is not None and work.has_told_the_clock:
                        with contextlib.suppress(LeasebookError), self.log.transaction():
                            work.put_note_back()
                    raise
            if data is not None and self.snapshots is not None:
                self.snapshots.save(*data)
            if work.events:
                if self._wake_others is not None and any(map(_is_news, work.events)):
                    self._wake_others()
                self._tell(work.events)

    def _tell(self, events: list[Event]) -> None:
        """Tell the listeners of events that were committed, and of those before that they missed."""
        if not self._listeners:
            return
        with self._telling:
            told, self._told = self._told, max(self._told, events[-1].position)
            if events[0].position > told + 1:
                missed = self.log.read(told, events[0].position - 1)
                events = [*map(from_row, missed), *events]
            fresh = [event for event in events if event.position > told]
            for listener in list(self._listeners) if fresh else ():
                try:
                    listener(fresh)
                except Exception:
                    # What was committed stays so, whatever comes of telling it.
                    import logging

                    logging.getLogger(__name__).exception("a listener failed")


_WRITERS: WeakSet[Writer] = WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_WRITERS):
        writer._start_anew()
        writer._group.start_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)

_NEWS = frozenset(
    {"withdrawn", "ending", "expired", "reclaimed", "released", "adjusted", "transferred"}
)


def _is_news(event: Event) -> bool:
    """Whether somebody in another process may be waiting to hear of this."""
    body = event.body
    if isinstance(body, GRANTS):
        return body.queued_at is not None
    return body.TYPE in _NEWS


def begin(log: Log, ledger_id: str, writer: Writer) -> None:
    """Write event 1 of an empty log; nothing where there is one already."""
    if log.head().position == 0:
        writer.execute(OpenLedger(command_id=f"open-{ledger_id}", ledger_id=ledger_id))


__all__ = ["LedgerCorrupt", "LedgerUnavailable", "UnknownEvent", "Writer", "begin"]
