"""The trail itself: one pass over a log that selects, reads, links and checks.

Reads rows only, never a book: so a ledger that a newer program has written to can be audited as well.
"""

from __future__ import annotations

import re
from dataclasses import replace
from struct import error as StructError

from ledger.advance import advance
from ledger.book import Allocation
from ledger.chain import digest_of, link, metadata_hash
from ledger.errors import LimitExceeded, Reason, Refused
from ledger.events import Ending, Event, Reclaimed, TimeExtended
from ledger.log import GENESIS, Row
from projections.past import Readable
from projections.travel_history import Tale
from reports.audit.entries import (
    BEGINS,
    EVENTS_MAX,
    Asked,
    Entry,
    Link,
    Rests,
    Trail,
    data_of,
    read_event,
    told,
)
from reports.audit.linking import Linker, link_corrections
from reports.audit.selecting import filters_of
from reports.audit.writing import subject_of_row

_DECIDED = BEGINS | {"refused"}
_MADE_WAY = re.compile(r"(A\d+) of .* comes first\Z", re.DOTALL)
# What damaged rows raise: values that are no integers, texts or hashes, or lie beyond 64 bits.
_MISFITS = (ValueError, TypeError, AttributeError, OverflowError, StructError)


def audit(log: Readable, asked: Asked, *, now: int, events_max: int = EVENTS_MAX) -> Trail:
    """The trail of what was asked, as the log has it; ``now`` is ns UTC.

    Raises Refused (``no_such_allocation``) for a subject that is not there, LimitExceeded where more
    than ``events_max`` events belong to it, InvalidInput for a subject that is neither kind of name.
    """
    return _Pass(log, asked, now, events_max).run()


class _Pass:
    """One pass over the log."""

    def __init__(self, log: Readable, asked: Asked, now: int, events_max: int) -> None:
        self._log = log
        self._asked = asked
        self._now = now
        self._max = events_max
        self._filters = filters_of(asked)
        self._observed: set[str] = set()
        self._linker = Linker(log, asked.tenant, self._observed)
        self._entries: dict[int, Entry] = {}
        self._found = asked.subject is None
        # What came of a refusal belongs to its trail.
        self._of_refusal = asked.subject is not None and asked.subject.startswith("R")
        self._ledger_id = ""
        self._policies: dict[str, int] = {}
        self._annotations: list[Row] = []
        self._extensions: list[Event] = []
        self._renewals: dict[str, Row] = {}
        self._wrong: set[int] = set()
        self._tenants: dict[str, str | None] = {}

    def run(self) -> Trail:
        head = self._log.head()
        before = GENESIS
        for row in self._log.read(0, head.position):
            self._note(row)
            # Each filter sees every row: what it remembers is what finds the indirect ones.
            hits = [one.concerns(row) for one in self._filters]
            wanted = all(hits) or (self._of_refusal and self._linker.answers(row))
            self._linker.see(row, self._entry(row, before) if wanted else None)
            before = row.hash
        if not self._found:
            raise _missing(self._asked.subject or "")
        link_corrections(self._entries, self._annotations, self._log)
        return self._trail(head.position, head.hash)

    def _note(self, row: Row) -> None:
        """Remember what the trail needs to know of the log around it."""
        if row.type in ("pool_opened", "policy_set") and row.pool is not None:
            self._policies[row.pool] = row.position
            if data_of(row).get("kind") == "observed":
                self._observed.add(row.pool)
        elif row.type in ("corrected", "redacted"):
            self._annotations.append(row)
        elif row.type == "ledger_opened":
            self._ledger_id = str(data_of(row).get("ledger_id", ""))
        elif row.type == "renewed" and row.allocation is None:
            self._renewals.update((str(a), row) for a in data_of(row).get("allocations", ()))
        elif row.type == "time_extended":
            event = read_event(row)
            if event is not None:
                self._extensions.append(event)

    def _entry(self, row: Row, before: bytes) -> Entry | None:
        """The row as an entry of the trail, or None where type or time leave it out."""
        self._found = True
        asked = self._asked
        if (asked.type is not None and row.type != asked.type) or not asked.within(row):
            return None
        if len(self._entries) >= self._max:
            raise LimitExceeded(
                f"more than {self._max:,} events belong to this trail",
                "narrow it with --since, --until or a filter, or use `leasebook export`",
            )
        event = read_event(row)
        if event is not None and asked.tenant is not None:
            event = self._masked(event)
        observed = row.pool in self._observed and row.allocation is not None
        text, details = told(row, event, observed=observed)
        source = self._source_of(row) if observed else None
        about = self._about(row)
        decided = row.type in _DECIDED and not observed
        policy = self._policies.get(row.pool or "") if decided else None
        sound = self._sound(row, before)
        entry = Entry(row, event, text, details, about, sound, source, policy)
        if event is not None:
            self._link_preemption(entry, event)
        self._entries[row.position] = entry
        return entry

    def _source_of(self, row: Row) -> str | None:
        """The key under which an import recorded an allocation: its first event has it."""
        assert row.allocation is not None
        if row.command_id is not None:
            return row.command_id
        rows = self._log.rows_of_allocation(row.allocation)
        return next((each.command_id for each in rows if each.command_id is not None), None)

    # --- what it stands under, and whether it is sound -------------------------------------------

    def _about(self, row: Row) -> str:
        """The heading under which a row stands."""
        subject = self._asked.subject
        if row.allocation is not None:
            return row.allocation
        if subject is not None:
            return subject
        if row.type == "refused":
            return f"refused {row.holder} {row.pool}"
        if row.type in ("corrected", "redacted"):
            target = data_of(row).get("corrects" if row.type == "corrected" else "position")
            known = self._entries.get(target) if isinstance(target, int) else None
            return "ledger" if known is None else known.about
        if row.type == "holder_seen":
            return "holders"
        return subject_of_row(row)

    def _sound(self, row: Row, before: bytes) -> bool:
        try:
            same = digest_of(*row[:12], metadata_hash(row.metadata)) == row.digest
            follows = link(before, row.digest) == row.hash
        except _MISFITS:
            return False
        if not same and row.metadata is None:
            # It may have been redacted; the proof of that stands further on.
            self._wrong.add(row.position)
            return follows
        return same and follows

    # --- other tenants ---------------------------------------------------------------------------

    def _masked(self, event: Event) -> Event:
        """The event without the names of another tenant, for whom it had to make way."""
        body = event.body
        if not isinstance(body, Ending | Reclaimed):
            return event
        made_way = _MADE_WAY.match(body.reason)
        if made_way is None or self._tenant_of(made_way[1]) == self._asked.tenant:
            return event
        reason = "another tenant's request comes first"
        if isinstance(body, Ending):
            return replace(event, body=replace(body, reason=reason))
        kept = {n: v for n, v in body.evidence.items() if n != "preempted_by"}
        return replace(event, body=replace(body, reason=reason, evidence=kept))

    def _tenant_of(self, allocation: str) -> str | None:
        if allocation not in self._tenants:
            rows = self._log.rows_of_allocation(allocation)
            self._tenants[allocation] = rows[0].tenant if rows else None
        return self._tenants[allocation]

    @staticmethod
    def _link_preemption(entry: Entry, event: Event) -> None:
        body = event.body
        if isinstance(body, Ending | Reclaimed):
            made_way = _MADE_WAY.match(body.reason)
            if made_way is not None:
                entry.links.append(Link("made_way_for", None, made_way[1], ""))

    # --- the end of it ---------------------------------------------------------------------------

    def _trail(self, head: int, head_hash: bytes) -> Trail:
        redacted = self._believe_redactions()
        entries = tuple(self._entries.values())
        names = {e.row.allocation for e in entries if e.row.allocation is not None}
        if self._asked.subject is not None and self._asked.subject.startswith("A"):
            names.add(self._asked.subject)
        states = {name: self._state_of(name) for name in names}
        rests = Rests(
            self._ledger_id,
            head,
            head_hash,
            entries[0].row.position if entries else None,
            entries[-1].row.position if entries else None,
            len(entries),
            tuple(e.row.position for e in entries if not e.sound),
            tuple(e.row.position for e in entries if e.event is None),
            redacted,
        )
        known = {name: state for name, state in states.items() if state is not None}
        return Trail(self._asked, entries, known, frozenset(self._observed), rests, self._now)

    def _believe_redactions(self) -> tuple[int, ...]:
        """Positions of the trail whose metadata was erased. What no redaction proves is unsound."""
        proofs: dict[int, str] = {}
        for row in self._annotations:
            data = data_of(row)
            if row.type == "redacted" and isinstance(data.get("position"), int):
                proofs[data["position"]] = str(data.get("metadata_sha256"))
        for position in self._wrong:
            entry = self._entries[position]
            try:
                erased = bytes.fromhex(proofs.get(position, ""))
                proved = digest_of(*entry.row[:12], erased) == entry.row.digest
            except _MISFITS:
                proved = False
            entry.sound = entry.sound and proved
        return tuple(sorted(p for p in proofs if p in self._entries))

    def _state_of(self, allocation: str) -> Allocation | None:
        """An allocation as all that was recorded of it makes it; None where that cannot be read.

        In an observed pool what a correction tells counts: that is all that is known of it.
        """
        rows = self._log.rows_of_allocation(allocation)
        renewal = self._renewals.get(allocation)
        events = [read_event(row) for row in [*rows, *([renewal] if renewal else [])]]
        own = [event for event in events if event is not None]
        state: Allocation | None = None
        try:
            if rows and rows[0].pool in self._observed:
                return Tale(own).last
            for event in sorted([*own, *self._extensions], key=lambda e: e.position):
                if isinstance(event.body, TimeExtended):
                    state = None if state is None else _extended(state, event.body)
                else:
                    state = advance(state, event)
        except (*_MISFITS, KeyError, AssertionError):
            return None
        return state


def _extended(allocation: Allocation, body: TimeExtended) -> Allocation:
    """As :mod:`ledger.evolve` gives time back to what had not ended when the gap began."""
    lease, deadline = allocation.lease_until, allocation.deadline
    if lease is not None and lease > body.since:
        lease += body.by_ns
    if deadline is not None and deadline > body.since:
        deadline += body.by_ns
    return replace(allocation, lease_until=lease, deadline=deadline)


def _missing(subject: str) -> Refused:
    kind = "refusal" if subject.startswith("R") else "allocation"
    see = "`leasebook events --type refused`" if kind == "refusal" else "`leasebook list`"
    return Refused(
        f"there is no {kind} {subject[:40]}", f"see {see}", reason=Reason.NO_SUCH_ALLOCATION
    )
