"""Work: what one transaction does between the gate and the commit. The writer opens and ends it.

First what comes before any command: findings of the clock, what is due, counted repeats, a
checkpoint. Then each command's step and its receipt. At last all events are appended with hashes.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from ledger import clock as clocks
from ledger.advance import advance
from ledger.amounts import check_name
from ledger.book import REFUSAL_WINDOW_NS, Allocation, Book
from ledger.codec import from_row, to_row
from ledger.commands import (
    AllocateBatch,
    AnyCommand,
    ClearAlert,
    ClosePool,
    CordonNode,
    ExtendTime,
    JoinNode,
    LeaveNode,
    ObserveCapacity,
    OpenLedger,
    OpenPool,
    RaiseAlert,
    RecordFacts,
    RecordUsage,
    Redact,
    ResizePool,
    SetPolicy,
    TakeCheckpoint,
    Targeted,
)
from ledger.content import content_digest
from ledger.errors import InvalidInput, Reason
from ledger.events import Event, Refused
from ledger.evolve import evolve
from ledger.fields import dump
from ledger.group import Ticket
from ledger.log import Head, NoteKeeper, Transaction
from ledger.receipts import Receipt, fold_allocation, receipt_for, receipt_for_facts
from ledger.rules.facts import Known, by_key, keys_of
from ledger.rules.prospects import prospect
from ledger.step import Step, is_due, note, record_facts, settle_due, take_step

TOUCHED_BEFORE_CHECKPOINT = 4
"""How often as many leases as there are may be touched by events of many before the next checkpoint."""

Repeats = dict[int, tuple[Event, int]]
"""Position of a refusal → its first repeat, and how many there were."""

_ON_AN_ALLOCATION = (Targeted, RecordUsage)
_LEDGER_WIDE = frozenset(
    {
        OpenLedger,
        OpenPool,
        ResizePool,
        ClosePool,
        JoinNode,
        LeaveNode,
        CordonNode,
        ObserveCapacity,
        SetPolicy,
        RaiseAlert,
        ClearAlert,
        ExtendTime,
        Redact,
    }
)
"""Commands whose events belong to no tenant, and so their ids do not either."""


def extensions(tick: clocks.Tick) -> list[ExtendTime]:
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


def _key_of(command: AnyCommand) -> tuple[str, str]:
    """The tenant and the id under which a command's effect is found again.

    Raises InvalidInput where they are no text that a store can look for.
    """
    check_name("command id", command.command_id)
    check_name("tenant", command.tenant)
    return "" if type(command) in _LEDGER_WIDE else command.tenant, command.command_id


class Work:
    """What one transaction does, between the gate and the commit."""

    def __init__(
        self,
        transaction: Transaction,
        book: Book,
        head_hash: bytes,
        gate: NoteKeeper,
        note: clocks.ClockNote | None,
        reading: clocks.Reading,
        repeats: Repeats,
    ) -> None:
        """``book`` is at the log's head, whose hash is ``head_hash``, and is changed from now on."""
        self.book = book
        self.head = Head(book.position, head_hash, book.recorded_at)
        self.events: list[Event] = []
        self.repeats = repeats.copy()
        self._transaction = transaction
        self._gate = gate
        self._erase: dict[int, int] = {}
        self._by_command: dict[tuple[str, str], list[Event]] = {}
        self._unused: set[tuple[str, str]] = set()
        self._snapshot: tuple[int, bytes] | None = None
        tick = clocks.tell(reading, note, book.recorded_at)
        self._tick = tick
        self._now = tick.now
        self._note_before = note
        self._note_after: clocks.ClockNote | None = None
        self._lost = 0 if note is None else note.lost(book.ledger_id, book.position)
        self._found = bool(tick.slept_ns or tick.adopted_ns or self._lost)
        if self._lost or not clocks.is_fresh(note, tick):
            mark = clocks.mark_of(book.ledger_id)
            self._write_note(
                tick.note._replace(position=book.position, hash=head_hash, ledger=mark)
            )

    def _write_note(self, note: clocks.ClockNote) -> None:
        self._note_after = note
        self._gate.write_note(note.pack())

    @property
    def has_told_the_clock(self) -> bool:
        """Whether the clock's note says of something that it is recorded."""
        return self._found and self._note_after is not None

    def put_note_back(self) -> None:
        """After a failed commit, in a new transaction: what the clock had found is not recorded."""
        if clocks.unpack(self._gate.read_note()) == self._note_after:
            before = self._note_before
            self._gate.write_note(b"" if before is None else before.pack())

    def prepare(self, flush: bool, checkpoint_every: int) -> bool:
        """What comes before the commands: findings of the clock, what is due, a checkpoint.

        False when more is due than one transaction takes: then no command is taken yet.
        """
        tick = self._tick
        if self._lost:
            self._note_lost()
        if tick.slept_ns or tick.jump_ns or tick.adopted_ns:
            self._note_clock()
        if is_due(self.book, self._now):
            self.events += settle_due(self.book, self._now)
            if is_due(self.book, self._now):
                return False
        if self.repeats:
            self._flush_repeats(flush)
        if self._is_far_from_checkpoint(checkpoint_every):
            self._checkpoint()
        return True

    def _is_far_from_checkpoint(self, every: int) -> bool:
        """Whether there is much to fold since the last: many events, or some that touch many leases at
        once. But these do not count before there are some times as many as are in the book, which a
        checkpoint writes down whole.
        """
        book = self.book
        if book.position - book.checkpoint >= every:
            return True
        return book.touched >= max(every, TOUCHED_BEFORE_CHECKPOINT * len(book.allocations))

    def _checkpoint(self) -> None:
        data = dump(self.book)
        self._snapshot = (self.book.position, data)
        self._take(TakeCheckpoint(command_id="", digest=sha256(data).hexdigest()))

    def _take(self, command: AnyCommand) -> None:
        self.events += take_step(self.book, command, self._now).events

    def _note_lost(self) -> None:
        ends = self.head.position
        alert = RaiseAlert(
            command_id=f"shortened-{self._tick.now}",
            alert=clocks.SHORTENED_ALERT,
            message=f"the log ended at event {ends}, but had come to event {ends + self._lost}: its end"
            " was lost, with a write-ahead log that was cut, or by an older copy in its place",
            details={"ended_at": ends, "had_come_to": ends + self._lost},
        )
        self.events += note(self.book, alert, self._now)

    def _note_clock(self) -> None:
        tick = self._tick
        if not self.book.position:
            return
        for extension in extensions(tick):
            self.events += note(self.book, extension, self._now)
        if tick.jump_ns:
            seconds = tick.jump_ns / 1e9
            alert = RaiseAlert(
                command_id=f"clock-{tick.now}",
                alert=clocks.CLOCK_ALERT,
                message=f"the wall clock jumped by {seconds:+.0f} s; ledger time goes on by"
                " elapsed time until `leasebook doctor --accept-clock`",
                details={"jump_ns": tick.jump_ns},
            )
            self.events += note(self.book, alert, self._now)

    def _flush_repeats(self, everything: bool) -> None:
        """Write down counted repeats of refusals whose second is over."""
        for position, (event, count) in list(self.repeats.items()):
            if not everything and event.at + REFUSAL_WINDOW_NS > self._now:
                continue
            del self.repeats[position]
            body = event.body
            assert isinstance(body, Refused)
            self._add_repeats(event, body, count)

    def _add_repeats(self, event: Event, body: Refused, count: int) -> None:
        counted = replace(
            event,
            position=self.book.position + 1,
            at=self._now,
            recorded_at=self._now,
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

    def look_up(self, commands: list[AnyCommand]) -> None:
        """Find out at once which of the commands' ids are unused: a tenth of asking for each."""
        try:
            keys = {_key_of(command) for command in commands}
        except InvalidInput:
            # It fails when it is carried out, and alone; the others ask for themselves.
            return
        rows = self._transaction.rows_of_commands(keys)
        self._unused = keys.difference((row.tenant, row.command_id or "") for row in rows)

    def carry_out(self, ticket: Ticket) -> None:
        """Settle one ticket. Bad input fails its own ticket; anything else fails the transaction."""
        try:
            ticket.receipt = self._receipt(ticket.command)
        except InvalidInput as error:
            ticket.error = error

    def _receipt(self, command: AnyCommand) -> Receipt:
        if isinstance(command, RecordFacts):
            return self._facts_receipt(command)
        batch = isinstance(command, AllocateBatch)
        key = None
        if command.command_id:
            key = _key_of(command)
            first = self._first_effect(*key)
            if first:
                return self._with_place(self._replay(command, first, batch))
        ended = before = None
        if isinstance(command, _ON_AN_ALLOCATION):
            check_name("allocation", command.allocation)
            before = self.book.allocations.get(command.allocation)
            if before is None:
                ended = self._from_log(command.allocation)
        step = take_step(self.book, command, self._now, ended)
        self.events += step.events
        for repeat in step.repeats:
            first_event, count = self.repeats.get(repeat.position, (repeat, 0))
            self.repeats[repeat.position] = (first_event, count + 1)
        if key is not None and [e for e in step.own if e.body.TYPE != "refused"]:
            self._by_command[key] = list(step.own)
        self._remember_side_effects(command, step)
        if step.answer is not None:
            twin = self.book.allocations[step.answer]
            outcome = "waiting" if twin.state == "waiting" else "granted"
            return self._with_place(Receipt(outcome, (twin.position,), None, twin, replayed=True))
        if before is None:
            return self._with_place(receipt_for(step.own, self._present, batch=batch))
        after = before
        for event in step.own:
            after = advance(after, event) or after
        live = self.book.allocations.get(before.id, after)
        return receipt_for(step.own, lambda _: live, batch=batch)

    def _facts_receipt(self, command: RecordFacts) -> Receipt:
        """Facts have keys of their own, so their command has no id that is looked up."""
        step = record_facts(self.book, command, self._now, self._known_facts(command))
        self.events += step.events
        for repeat in step.repeats:
            first_event, count = self.repeats.get(repeat.position, (repeat, 0))
            self.repeats[repeat.position] = (first_event, count + 1)
        if step.own and step.own[0].body.TYPE == "refused":
            return receipt_for(step.own, self._present)
        return receipt_for_facts(step.own, step.outcomes)

    def _known_facts(self, command: RecordFacts) -> Known:
        """All that is recorded under the keys of a command's facts, here and in the log."""
        keys = keys_of(command)
        first = self._transaction.rows_of_commands(keys)
        allocations = {row.allocation for row in first if row.allocation is not None}
        unwritten: list[Event] = []
        if self.events:
            allocations |= {
                e.allocation
                for e in self.events
                if e.allocation is not None
                and e.cause is not None
                and (e.tenant, e.cause.command_id) in keys
            }
            unwritten = [
                e
                for e in self.events
                if e.allocation in allocations
                or (e.cause is not None and (e.tenant, e.cause.command_id) in keys)
            ]
        if not first and not unwritten:
            return {}
        return by_key(first, self._transaction.rows_of_allocations(allocations), unwritten)

    def _with_place(self, receipt: Receipt) -> Receipt:
        """The receipt, with the prospects of what waits."""
        if receipt.outcome != "waiting" and not any(
            r.outcome == "waiting" for r in receipt.results
        ):
            return receipt

        def placed(one: Receipt) -> Receipt:
            waiting = one.allocation
            if one.outcome != "waiting" or waiting is None:
                return one
            return replace(one, prospect=prospect(self.book, waiting, self._now))

        return replace(placed(receipt), results=tuple(map(placed, receipt.results)))

    def _remember_side_effects(self, command: AnyCommand, step: Step) -> None:
        if isinstance(command, Redact):
            self._erase[step.own[0].position] = command.position
        elif isinstance(command, ClearAlert) and command.alert == clocks.CLOCK_ALERT:
            self._found = True
            self._write_note(self._tick.note._replace(accept=True))

    def _first_effect(self, tenant: str, command_id: str) -> list[Event]:
        """The events of the command of this id, if it has had its effect already."""
        here = self._by_command.get((tenant, command_id))
        if here is not None:
            return here
        if (tenant, command_id) in self._unused:
            return []
        rows = self._transaction.rows_of_command(tenant, command_id)
        events = [from_row(row) for row in rows]
        effect = next((event for event in events if event.type != "refused"), None)
        if effect is None or effect.cause is None or effect.cause.item is None:
            return events
        # What else there is under its id are refusals of an earlier try, which had no effect: of
        # each item, the last word counts.
        last = {e.cause.item or 0: e for e in events if e.cause is not None}
        return [last[item] for item in sorted(last)]

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
        events = [from_row(row) for row in self._transaction.rows_of_allocation(allocation)]
        events += [e for e in self.events if e.allocation == allocation]
        return fold_allocation(events)

    # --- the end of it ---------------------------------------------------------------------------

    def append(self) -> tuple[Head, bytes] | None:
        """Append all events; the snapshot to save after the commit, if one was taken."""
        if self.book.position != self.head.position + len(self.events):
            # A fault in the program: what the book holds would not be in the record.
            raise RuntimeError(f"the book moved to {self.book.position} without an event for it")
        if not self.events:
            return None
        rows = []
        hash_ = self.head.hash
        snapshot_at = None
        if self._snapshot is not None and self._snapshot[0] == self.head.position:
            snapshot_at = self.head
        for event in self.events:
            row = to_row(event, hash_)
            hash_ = row.hash
            rows.append(row)
            if self._snapshot is not None and self._snapshot[0] == event.position:
                snapshot_at = Head(event.position, hash_, event.recorded_at)
        done = 0
        for redaction, erased in self._erase.items():
            # Metadata can be dropped only right after its redaction.
            upto = redaction - self.head.position
            self._transaction.append(rows[done:upto])
            self._transaction.erase_metadata(erased)
            done = upto
        self._transaction.append(rows[done:])
        self.head = Head(rows[-1].position, hash_, rows[-1].recorded_at)
        if self._snapshot is None or snapshot_at is None:
            return None
        return snapshot_at, self._snapshot[1]
