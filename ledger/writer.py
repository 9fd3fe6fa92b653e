"""The writer: the only impure flow. It takes commands in, and commits what :mod:`ledger.step` makes.

One transaction: pass the gate, read what other processes have added, tell the time, write down what
is due, take each command's step, append, commit. If the commit fails the book is thrown away and
read again, and every caller in the batch gets the error. Readers never see a book ahead of its
commit: they wait for the one under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from threading import RLock
from typing import TypeVar

from ledger import clock as clocks
from ledger.advance import GRANTS, advance
from ledger.book import Allocation, Book
from ledger.codec import UnknownEvent, from_row, to_row
from ledger.commands import (
    AllocateBatch,
    AnyCommand,
    ClearAlert,
    ExtendTime,
    OpenLedger,
    RaiseAlert,
    RecordUsage,
    Redact,
    TakeCheckpoint,
    Targeted,
)
from ledger.content import content_digest
from ledger.errors import InvalidInput, LedgerCorrupt, LedgerReadOnly, LedgerUnavailable, Reason
from ledger.events import Event, Refused
from ledger.evolve import evolve
from ledger.fields import dump
from ledger.group import Group, Ticket
from ledger.log import EMPTY, Head, Log, Row, Transaction
from ledger.receipts import Receipt, fold_allocation, receipt_for
from ledger.snapshots import Snapshots
from ledger.step import is_due, settle_due, take_step

T = TypeVar("T")

CHECKPOINT_EVERY = 4_096
"""Events between two digests of the book in the log, and between two snapshots beside it."""

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
        self._lock = RLock()
        self._book: Book | None = None
        self._hash = EMPTY.hash
        self._listeners: list[Listener] = []
        self._repeats: dict[int, tuple[Event, int]] = {}
        self._last_note: tuple[bytes, clocks.ClockNote | None] = (b"", None)

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
            book = self._catch_up(self.log.read)
            tick = clocks.tell(self._clock(), self._note(), book.recorded_at)
            if is_due(book, tick.now):
                book = book.fork()
                # Time in which nobody could renew does not count, for a reader neither.
                for extension in _extensions(tick):
                    take_step(book, extension, tick.now)
                while is_due(book, tick.now):
                    settle_due(book, tick.now, grant=False)
            return question(book, tick.now)

    def present(self, allocation: str) -> Allocation | None:
        """An allocation's present state, ended ones included; None where there is none."""
        live = self.read(lambda book, now: book.allocations.get(allocation))
        if live is not None:
            return live
        return fold_allocation(map(from_row, self.log.rows_of_allocation(allocation)))

    def settle(self) -> None:
        """Write down what time has ended, if anything is due. Callable at any time, by anyone."""
        if self._is_late():
            self._commit([])

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Be called with the events of every commit seen here. Returns how to stop it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def refresh(self) -> None:
        """Read what other processes have added, and tell the listeners."""
        with self._lock:
            if self._book is None:
                self._catch_up(self.log.read)
                return
            before = self._book.position
            self._catch_up(self.log.read)
            fresh = self._book.position - before
        if fresh and self._listeners:
            self._tell([from_row(row) for row in self.log.read(before)])

    def close(self) -> None:
        """Record what was only counted, and let go of threads and files."""
        self._group.close()
        if self._repeats and self.log.read_only_reason is None:
            self._commit([], flush=True)
        self.log.close()

    # --- the book --------------------------------------------------------------------------------

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

    def _catch_up(self, read: Callable[[int], Iterable[Row]]) -> Book:
        """The book at the log's head. Whatever goes wrong, the next call starts anew."""
        book = self._book
        if book is None:
            book = Book()
            if self.snapshots is not None:
                book = self.snapshots.newest(self._known) or book
                if book.position:
                    head = self._known(book.position)
                    self._hash = EMPTY.hash if head is None else head.hash
            if not book.position:
                self._hash = EMPTY.hash
        self._book = None
        for row in read(book.position):
            evolve(book, from_row(row))
            self._hash = row.hash
        self._book = book
        return book

    # --- one transaction -------------------------------------------------------------------------

    def _commit(self, tickets: list[Ticket], flush: bool = False) -> None:
        """Settle a batch of tickets in as many transactions as what is due takes, mostly one."""
        if self.log.read_only_reason is not None:
            raise LedgerReadOnly(self.log.read_only_reason)
        done = False
        while not done:
            with self._lock:
                try:
                    with self.log.transaction() as transaction:
                        work = _Work(self, transaction)
                        done = work.prepare(flush)
                        if done:
                            for ticket in tickets:
                                work.carry_out(ticket)
                        data = work.append()
                except BaseException:
                    self._book = None
                    for ticket in tickets:
                        ticket.receipt = None
                    raise
                head = work.head
                self._hash = head.hash
            if data is not None and self.snapshots is not None:
                self.snapshots.save(*data)
            if work.events:
                self._tell(work.events)
                if self._wake_others is not None and any(map(_is_news, work.events)):
                    self._wake_others()

    def _tell(self, events: list[Event]) -> None:
        for listener in list(self._listeners):
            listener(events)


_ON_AN_ALLOCATION = (Targeted, RecordUsage)
_NEWS = frozenset({"withdrawn", "ending", "expired", "reclaimed", "released", "adjusted"})


def _is_news(event: Event) -> bool:
    """Whether somebody in another process may be waiting to hear of this."""
    body = event.body
    if isinstance(body, GRANTS):
        return body.queued_at is not None
    return body.TYPE in _NEWS


def _extensions(tick: clocks.Tick) -> list[ExtendTime]:
    """The time to give back to leases for what a reading of the clocks found."""
    found = [
        (tick.slept_ns, "slept", "the machine was suspended"),
        (tick.adopted_ns, "jumped", "a jump of the wall clock was accepted"),
    ]
    return [
        ExtendTime(
            command_id=f"{what}-{tick.now}",
            by_ns=by_ns,
            since=tick.now - by_ns,
            until=tick.now,
            why=why,
        )
        for by_ns, what, why in found
        if by_ns
    ]


class _Work:
    """What one transaction does, between the gate and the commit."""

    def __init__(self, writer: Writer, transaction: Transaction) -> None:
        self.writer = writer
        self.transaction = transaction
        self.book = writer._catch_up(transaction.read)
        self.hash = writer._hash
        self.events: list[Event] = []
        self.head = Head(self.book.position, self.hash, self.book.recorded_at)
        self._erase: list[int] = []
        self._by_command: dict[tuple[str, str], list[Event]] = {}
        self._snapshot: tuple[int, bytes] | None = None
        note = writer._note()
        tick = clocks.tell(writer._clock(), note, self.book.recorded_at)
        if not clocks.is_fresh(note, tick):
            writer.log.gate.write_note(tick.note.pack())
        self.tick = tick
        self.now = tick.now

    def prepare(self, flush: bool) -> bool:
        """What comes before the commands: findings of the clock, what is due, a checkpoint.

        False when more is due than one transaction takes: then no command is taken yet.
        """
        tick = self.tick
        if tick.slept_ns or tick.jump_ns or tick.adopted_ns:
            self._note_clock()
        if is_due(self.book, self.now):
            self.events += settle_due(self.book, self.now)
            if is_due(self.book, self.now):
                return False
        if self.writer._repeats:
            self._flush_repeats(flush)
        if self.book.position - self.book.checkpoint >= CHECKPOINT_EVERY:
            self._checkpoint()
        return True

    def _checkpoint(self) -> None:
        data = dump(self.book)
        if self.writer.snapshots is not None:
            self._snapshot = (self.book.position, data)
        self._take(TakeCheckpoint(command_id="", digest=sha256(data).hexdigest()))

    def _take(self, command: AnyCommand) -> None:
        self.events += take_step(self.book, command, self.now).events

    def _note_clock(self) -> None:
        tick = self.tick
        if self.book.position:
            for extension in _extensions(tick):
                self._take(extension)
        if tick.jump_ns and self.book.position:
            seconds = tick.jump_ns / 1e9
            self._take(
                RaiseAlert(
                    command_id=f"clock-{tick.now}",
                    alert=clocks.CLOCK_ALERT,
                    message=f"the wall clock jumped by {seconds:+.0f} s; ledger time goes on by"
                    " elapsed time until `leasebook doctor --accept-clock`",
                    details={"jump_ns": tick.jump_ns},
                )
            )

    def _flush_repeats(self, everything: bool) -> None:
        """Write down counted repeats of refusals whose second is over."""
        for position, (event, count) in list(self.writer._repeats.items()):
            if not everything and event.at + 1_000_000_000 > self.now:
                continue
            del self.writer._repeats[position]
            body = event.body
            assert isinstance(body, Refused)
            self._add_repeats(event, body, count)

    def _add_repeats(self, event: Event, body: Refused, count: int) -> None:
        from dataclasses import replace

        counted = replace(
            event,
            position=self.book.position + 1,
            at=self.now,
            recorded_at=self.now,
            cause=None,
            metadata=None,
            body=Refused(
                body.verb,
                body.reason,
                body.message,
                request=body.request,
                repeats=count,
                repeats_of=event.position,
            ),
        )
        evolve(self.book, counted)
        self.events.append(counted)

    # --- one command -----------------------------------------------------------------------------

    def carry_out(self, ticket: Ticket) -> None:
        """Settle one ticket. Bad input fails its own ticket; anything else fails the transaction."""
        try:
            ticket.receipt = self._receipt(ticket.command)
        except InvalidInput as error:
            ticket.error = error

    def _receipt(self, command: AnyCommand) -> Receipt:
        batch = isinstance(command, AllocateBatch)
        if command.command_id:
            first = self._first_effect(command)
            if first:
                return self._replay(command, first, batch)
        ended = before = None
        if isinstance(command, _ON_AN_ALLOCATION):
            before = self.book.allocations.get(command.allocation)
            if before is None:
                ended = self._from_log(command.allocation)
        step = take_step(self.book, command, self.now, ended)
        self.events += step.events
        for repeat in step.repeats:
            first_event, count = self.writer._repeats.get(repeat.position, (repeat, 0))
            self.writer._repeats[repeat.position] = (first_event, count + 1)
        if command.command_id and step.own and any(e.type != "refused" for e in step.own):
            self._by_command[command.tenant, command.command_id] = list(step.own)
        self._remember_side_effects(command)
        if step.answer is not None:
            twin = self.book.allocations[step.answer]
            outcome = "waiting" if twin.state == "waiting" else "granted"
            return Receipt(outcome, (twin.position,), None, twin, replayed=True)
        if before is None:
            return receipt_for(step.own, self._present, batch=batch)
        after = before
        for event in step.own:
            after = advance(after, event) or after
        live = self.book.allocations.get(before.id, after)
        return receipt_for(step.own, lambda _: live, batch=batch)

    def _remember_side_effects(self, command: AnyCommand) -> None:
        if isinstance(command, Redact):
            self._erase.append(command.position)
        elif isinstance(command, ClearAlert) and command.alert == clocks.CLOCK_ALERT:
            accepting = self.tick.note._replace(accept=True)
            self.writer.log.gate.write_note(accepting.pack())

    def _first_effect(self, command: AnyCommand) -> list[Event]:
        """The events of the command of this id, if it has had its effect already."""
        here = self._by_command.get((command.tenant, command.command_id))
        if here is not None:
            return here
        rows = self.transaction.rows_of_command(command.tenant, command.command_id)
        return [from_row(row) for row in rows]

    def _replay(self, command: AnyCommand, first: list[Event], batch: bool) -> Receipt:
        cause = first[0].cause
        if cause is None or cause.digest != content_digest(command):
            return Receipt(
                "refused",
                (first[0].position,),
                None,
                None,
                Reason.COMMAND_ID_REUSED,
                f"command id {command.command_id!r} was used for something else at position"
                f" {first[0].position}",
                "use a new id for a new command",
            )
        return receipt_for(first, self._present, batch=batch, replayed=True)

    def _present(self, allocation: str) -> Allocation | None:
        return self.book.allocations.get(allocation) or self._from_log(allocation)

    def _from_log(self, allocation: str) -> Allocation | None:
        events = [from_row(row) for row in self.transaction.rows_of_allocation(allocation)]
        events += [e for e in self.events if e.allocation == allocation]
        return fold_allocation(events)

    # --- the end of it ---------------------------------------------------------------------------

    def append(self) -> tuple[Head, bytes] | None:
        """Append all events; the snapshot to save after the commit, if one was taken."""
        if not self.events:
            return None
        rows = []
        hash_ = self.hash
        snapshot_at = None
        if self._snapshot is not None and self._snapshot[0] == self.head.position:
            snapshot_at = self.head
        for event in self.events:
            row = to_row(event, hash_)
            hash_ = row.hash
            rows.append(row)
            if self._snapshot is not None and self._snapshot[0] == event.position:
                snapshot_at = Head(event.position, hash_, event.recorded_at)
        self.transaction.append(rows)
        for position in self._erase:
            self.transaction.erase_metadata(position)
        self.head = Head(rows[-1].position, hash_, rows[-1].recorded_at)
        if self._snapshot is None or snapshot_at is None:
            return None
        return snapshot_at, self._snapshot[1]


def begin(log: Log, ledger_id: str, writer: Writer) -> None:
    """Write event 1 of an empty log; nothing where there is one already."""
    if log.head().position == 0:
        writer.execute(OpenLedger(command_id=f"open-{ledger_id}", ledger_id=ledger_id))


__all__ = ["LedgerCorrupt", "LedgerUnavailable", "UnknownEvent", "Writer", "begin"]
