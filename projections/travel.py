"""Time travel: the state of the whole fleet at any moment of a log.

What is due by the moment counts as ended, whether or not anybody had written it down by then. And
what was found out later about that moment counts too, as far as one may know it: everything by
default, or only what had been recorded by a second, earlier moment.

Everything here asks a :class:`~projections.past.Past`, so a ledger and an incident bundle answer alike.
What is known of observed pools is in :mod:`projections.travel_history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ledger.advance import advance
from ledger.book import Allocation, Book
from ledger.codec import from_row
from ledger.errors import InvalidInput
from ledger.events import Event, TimeExtended
from ledger.evolve import evolve
from ledger.log import Row
from ledger.step import is_due, settle_due
from ledger.times import rfc3339
from projections.past import Past
from projections.travel_corrections import Correction, correction, late_end, parted
from projections.travel_history import History, Sizes, known_at, put_allocation, put_pool

_BEGIN = "give a time from then on, or a position such as #1"


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a log: the last event that had been written, and the time (ns UTC)."""

    position: int
    time: int


@dataclass(slots=True)
class State:
    """The fleet at a moment, as far as was known at ``known``.

    ``book`` is this state's own. Its pools, nodes and allocations are those of the moment, observed
    ones included; its position is not: that is ``when.position``. ``ended`` are allocations that count
    as ended though the record had not said so by the moment.
    """

    when: Moment
    known: Moment
    book: Book
    corrections: tuple[Correction, ...] = ()
    ended: dict[str, Allocation] = field(default_factory=dict)

    def held(self, pool: str | None = None) -> list[Allocation]:
        """What held capacity, in order of request."""
        return self._chosen(pool, waiting=False)

    def queue(self, pool: str | None = None) -> list[Allocation]:
        """What waited, in order of arrival."""
        return self._chosen(pool, waiting=True)

    def _chosen(self, pool: str | None, *, waiting: bool) -> list[Allocation]:
        found = [
            a
            for a in self.book.allocations.values()
            if (a.state == "waiting") is waiting and pool in (None, a.pool)
        ]
        return sorted(found, key=lambda a: a.position)


class Travel:
    """Asks a past for its moments.

    ``now`` is the present (ns UTC): what comes after it is the future. Without it the past ends with
    its last event. ``history`` finds what observed pools held; without it the log is looked through.
    ``observed``: a position, and the names of the observed pools in the book there, if the caller
    happens to know them.
    """

    def __init__(
        self,
        past: Past,
        *,
        now: int | None = None,
        history: History | None = None,
        observed: tuple[int, frozenset[str]] | None = None,
    ) -> None:
        self.past = past
        self._now = now
        self._history = history or History(past.log)
        self._observed_at = observed or (-1, frozenset())

    # --- moments ---------------------------------------------------------------------------------

    def head(self) -> Moment:
        """The latest moment that can be asked for."""
        head = self.past.log.head()
        latest = self.past.recorded_at(head.position) if head.position else 0
        return Moment(head.position, max(latest, self._now or 0))

    def moment(self, kind: str, value: int) -> Moment:
        """The moment of a ``"position"`` or a ``"time"`` (ns UTC).

        A position's moment is right after its event. Raises InvalidInput for one before the beginning
        or in the future.
        """
        head = self.head()
        if not head.position:
            raise InvalidInput("nothing has happened here yet", "allocate something first")
        if kind == "position":
            return self._at_position(value, head)
        if value > head.time:
            raise InvalidInput(
                f"{rfc3339(value)} lies in the future",
                f"what is known ends at {rfc3339(head.time)}, position {head.position}",
            )
        begins = self.past.recorded_at(self.past.first)
        if value >= begins:
            return Moment(self.past.position_at(value), value)
        history = self._earliest_history(head)
        earliest = begins if history is None else min(begins, history)
        if value < earliest:
            raise InvalidInput(
                f"{rfc3339(value)} lies before everything that is recorded here:"
                f" it begins at {rfc3339(earliest)}",
                _BEGIN,
            )
        return Moment(self.past.first, value)

    def _at_position(self, position: int, head: Moment) -> Moment:
        first = max(1, self.past.first)
        if position < first:
            raise InvalidInput(
                f"there is no position {position}: what is recorded here begins with position"
                f" {first}, at {rfc3339(self.past.recorded_at(first))}",
                f"give one from {first} to {head.position}",
            )
        if position > head.position:
            raise InvalidInput(
                f"there is no position {position} yet: the head is {head.position}, at"
                f" {rfc3339(self.past.recorded_at(head.position))}",
                f"give one from {first} to {head.position}",
            )
        return Moment(position, self.past.recorded_at(position))

    def _earliest_history(self, head: Moment) -> int | None:
        pools = self.observed(head)
        return self._history.earliest(pools) if pools else None

    def observed(self, head: Moment) -> frozenset[str]:
        """The observed pools that are known now."""
        if self._observed_at[0] != head.position:
            pools = observed_pools(self.past.book_at(head.position))
            self._observed_at = head.position, pools
        return self._observed_at[1]

    # --- the state at one ------------------------------------------------------------------------

    def state(self, when: Moment, known: Moment | None = None) -> State:
        """The fleet at a moment, as far as was known at another one (None: as far as is known now).

        Raises InvalidInput where ``known`` is the earlier of the two, LedgerCorrupt for a damaged log.
        """
        head = self.head()
        known = known or head
        if (known.position, known.time) < (when.position, when.time):
            raise InvalidInput(
                f"at {rfc3339(known.time)} nobody could know of {rfc3339(when.time)}",
                "--as-known-at takes that moment or a later one",
            )
        state = State(when, known, self.past.book_at(when.position))
        found: list[Correction] = []
        if when.position:
            found += self._settle(state)
            found += self._end_late(state)
        found += self._observed(state, head)
        state.corrections = tuple(sorted(found, key=lambda c: (c.found_at, c.position)))
        return state

    def _settle(self, state: State) -> list[Correction]:
        """Count what was due by the moment as ended.

        Time in which nobody could renew is given back by the first events of the next commit: what
        that saved was held, to whoever knows of it.
        """
        book, when = state.book, state.when
        if not is_due(book, when.time):
            return []
        extensions = self._extensions(when.position)
        counted = [e for e in extensions if e.position <= state.known.position]
        others = book.fork() if extensions else None
        _count_ended(state, _settled(book, counted, when.time))
        if others is None:
            return []
        # The same again as if nobody had given the time back, and the other way round.
        believed, found = others.fork(), others
        _settled(believed, [], when.time)
        _settled(found, extensions, when.time)
        last = extensions[-1]
        return [
            correction(
                a, "ended", "held", None, None, last, counted=last.position <= state.known.position
            )
            for name, a in found.allocations.items()
            if name not in believed.allocations
        ]

    def _extensions(self, position: int) -> list[Event]:
        found = []
        for row in self.past.log.read(position):
            if row.type != TimeExtended.TYPE:
                break
            found.append(from_row(row))
        return found

    def _end_late(self, state: State) -> list[Correction]:
        """Count ends that were recorded after the moment though they happened before it."""
        late: list[tuple[Event, Allocation]] = []
        known: list[tuple[Event, Allocation]] = []
        when = state.when.position, state.when.time
        upto = state.known.position
        for a in list(state.book.allocations.values()):
            if a.state == "waiting" and a.request.parent is None:
                # Only what drew on another can have left the queue at a time that is over.
                continue
            rows = self.past.log.rows_of_allocation(a.id)
            end = late_end(rows, *when)
            if end is not None:
                late.append((end, a))
            if rows and rows[-1].position > upto:
                end = late_end([row for row in rows if row.position <= upto], *when)
            if end is not None:
                known.append((end, a))
        # What drew on another ends before it, in the record as here.
        for event, a in sorted(known, key=_position):
            _count_ended(state, [(_take_end(state.book, event, a, state.when.time), a)])
        corrections = []
        for event, a in sorted(late, key=_position):
            ended = advance(a, event) or a
            counts = event.position <= upto
            corrections.append(
                correction(
                    a, "held", "ended", ended.ended_at, ended.ended_by, event, counted=counts
                )
            )
        return corrections

    # --- observed pools --------------------------------------------------------------------------

    def _observed(self, state: State, head: Moment) -> list[Correction]:
        """Put what observed pools held at the moment into the book, from intervals of ``at``."""
        known, when = state.known, state.when
        if not self.observed(head):
            return []
        if when.position == known.position:
            later = state.book
        else:
            later = self.past.book_at(known.position)
        pools = observed_pools(later)
        if not pools:
            return []
        sizes = self._history.sizes(pools, when.time, known.position)
        for name in sorted(pools):
            put_pool(state.book, later.pools[name], sizes[name])
        asked = self._history.ids(pools, when.time, when.time, known.time)
        believed = known.position < head.position
        corrections = []
        for name in asked:
            rows = self.past.log.rows_of_allocation(name)
            then = known_at(rows, known.position)
            before = then.tale.at(when.time)
            if before is not None:
                put_allocation(state.book, before)
            if believed:
                corrections += parted(then, known_at(rows, head.position), when.time)
        return corrections

    def end_of(self, before: Allocation, since: Moment, state: State) -> Allocation:
        """What became of an allocation that was there at an earlier moment, as far as a state knows."""
        if before.id in state.ended:
            return state.ended[before.id]
        rows = self.past.log.rows_of_allocation(before.id)
        if before.pool in self.observed(self.head()):
            return known_at(rows, state.known.position).tale.last or before
        after = before
        for row in rows:
            if since.position < row.position <= state.known.position:
                after = advance(after, from_row(row)) or after
        return after

    def sizes(self, pools: frozenset[str], when: Moment) -> dict[str, Sizes]:
        """What the nodes of observed pools had at a moment, as far as is known now."""
        return self._history.sizes(pools, when.time, self.head().position)

    def history_rows(self, pools: frozenset[str], since: int, until: int) -> Iterable[list[Row]]:
        """The rows of each allocation of observed pools that may have lived in an interval."""
        for name in self._history.ids(pools, since, until, self.head().time):
            yield self.past.log.rows_of_allocation(name)


def _position(late: tuple[Event, Allocation]) -> int:
    return late[0].position


def observed_pools(book: Book) -> frozenset[str]:
    """The names of a book's observed pools."""
    return frozenset(name for name, pool in book.pools.items() if pool.kind == "observed")


def _settled(
    book: Book, extensions: Sequence[Event], now: int
) -> list[tuple[Event, Allocation | None]]:
    """End what is due in a book, after giving time back: each event, with what it ended."""
    for event in extensions:
        _take(book, event, now)
    ended: list[tuple[Event, Allocation | None]] = []
    while is_due(book, now):
        before = book.allocations.copy()
        for event in settle_due(book, now, grant=False):
            ended.append((event, before.get(event.allocation or "")))
    return ended


def _take(book: Book, event: Event, now: int) -> Event:
    """Evolve a book that is nobody else's by an event from further on in the log."""
    taken = replace(event, position=book.position + 1, recorded_at=now)
    evolve(book, taken)
    return taken


def _take_end(book: Book, event: Event, a: Allocation, now: int) -> Event:
    if a.request.parent is not None and a.request.parent not in book.allocations:
        # What it drew on is gone already, and with it whatever there was to give back.
        book.allocations.pop(a.id, None)
        return event
    return _take(book, event, now)


def _count_ended(state: State, ended: Iterable[tuple[Event, Allocation | None]]) -> None:
    for event, before in ended:
        after = None if before is None else advance(before, event)
        if after is not None and after.state == "ended":
            state.ended[after.id] = after
