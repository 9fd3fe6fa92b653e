"""What-if as it is asked: a window of a log, some changes, and the comparison that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ledger.book import Allocation, Book
from ledger.codec import from_row
from ledger.errors import InvalidInput
from ledger.events import Event, NodeJoined, PoolOpened
from ledger.fields import dump, load
from ledger.log import Row
from ledger.receipts import fold_allocation
from projections.past import Past
from projections.sentences import sentence
from reports.whatif.actions import read_window
from reports.whatif.changes import Changes
from reports.whatif.mapping import Replayed
from reports.whatif.measures import SECOND_NS, Fate, Measures
from reports.whatif.replay import Replay
from reports.whatif.reproducing import Reproduced, reproduce
from reports.whatif.sameness import differing_in

Progress = Callable[[int], None]
"""Is told, now and then, how far it is: a time, ns UTC."""
Taken = Callable[[Event], None]
MOMENTS_TOLD = 1_000
"""Whoever looks on is told how far it is after so many moments."""
FATES_MAX = 10_000
"""The most differing fates that an answer lists; more are counted."""

_ALWAYS = (
    "every recorded request is asked again at its time, whatever its holder would have done"
    " after another answer",
    "what was granted is held as long as in the record, counted from its grant; what was never"
    " released in the record is held until its lease ends",
    "what is still held, or still waits, when the window ends is left as it is",
)


@dataclass(frozen=True, slots=True)
class Differing:
    """One request that fared otherwise: its recorded id (``R`` + position where it was refused), the
    simulated one, and both fates; ``simulated`` is None where it was not asked at all."""

    recorded_id: str
    simulated_id: str | None
    recorded: Fate
    simulated: Fate | None


@dataclass(slots=True)
class Answer:
    """What would have been. ``exact``: every event came out the same in every column.

    ``same`` events did before the first that differed; ``parted_at`` is the position from which fates
    differ. ``first`` is the recorded and the simulated event where they part, else the first that are
    not written the same.
    """

    begins: int
    ends: int
    since: int
    until: int
    exact: bool
    same: int
    parted_at: int | None
    first: tuple[Event | None, Event | None] | None
    recorded: Measures
    simulated: Measures
    fates: list[Differing]
    assumptions: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The answer, JSON-ready; times in ns UTC are left to the caller to show."""
        first = self.first or (None, None)
        return {
            "first_position": self.begins,
            "last_position": self.ends,
            "since_ns": self.since,
            "until_ns": self.until,
            "exact": self.exact,
            "same_events": self.same,
            "parted_at": self.parted_at,
            "first_difference": None
            if self.first is None
            else {
                "recorded": None if first[0] is None else sentence(first[0]),
                "simulated": None if first[1] is None else sentence(first[1]),
                "differs_in": differing_in(*first),
            },
            "recorded": self.recorded.to_json(),
            "simulated": self.simulated.to_json(),
            "differing": len(self.fates),
            "fates": [_fate_json(each) for each in self.fates[:FATES_MAX]],
            "assumptions": self.assumptions,
        }


def ask(
    past: Past,
    changes: Changes,
    since: int | None = None,
    upto: int | None = None,
    progress: Progress | None = None,
    taken: Taken | None = None,
) -> Answer:
    """Decide the events of positions ``since`` to ``upto`` again, as the changes would have it.

    A commit that the window begins or ends in the middle of counts whole. Unchanged, one moment of it
    lies in memory at a time; changed, all that was asked in it. ``taken`` is given each event that was
    decided otherwise than as recorded or may have been, in order. Raises InvalidInput for an empty
    window, a pool that is not there, or a change that cannot be.
    """
    asking = _Asking(past, *_window(past, since, upto), progress, taken)
    asking.check(changes)
    return asking.changed(changes) if changes else asking.unchanged()


class _Asking:
    """One window of a past: the record in it, and the book before it."""

    def __init__(
        self, past: Past, begins: int, ends: int, progress: Progress | None, taken: Taken | None
    ) -> None:
        self._past = past
        self._begins, self._ends = begins, ends
        self._bounds = past.recorded_at(begins), past.recorded_at(ends)
        self._start = past.book_at(begins - 1)
        self._progress, self._taken = progress, taken

    def check(self, changes: Changes) -> None:
        """Raise InvalidInput for a change that cannot be, before anything is decided."""
        _check(changes, self._start, self._rows(self._begins - 1))
        _changed(self._start, changes)

    def unchanged(self) -> Answer:
        """The record as it was; where it does not come out, what comes instead."""
        figures = self._measures(self._start)
        done = self._reproduce(figures)
        if done.before is not None:
            return self._decide(Changes(), done.before, Reproduced(done.same), [])
        figures.finish()
        span = self._begins, self._ends, *self._bounds
        return Answer(*span, True, done.same, None, None, figures, figures, [])

    def changed(self, changes: Changes) -> Answer:
        """The record with something otherwise."""
        done = self._reproduce()
        said = []
        if done.before is not None:
            said.append(
                f"the record does not come out again by itself from event {done.before.position + 1} on,"
                " so not all that differs from there on is the changes' doing"
            )
        return self._decide(changes, self._start, Reproduced(0, done.looks), said)

    def _rows(self, after: int) -> Iterator[Row]:
        return self._past.log.read(after, self._ends)

    def _events(self, after: int) -> Iterator[Event]:
        return map(from_row, self._rows(after))

    def _ended(self, name: str) -> Allocation | None:
        return fold_allocation(from_row(row) for row in self._past.log.rows_of_allocation(name))

    def _measures(self, book: Book) -> Measures:
        figures = Measures(*self._bounds)
        figures.begin(book)
        return figures

    def _reproduce(self, figures: Measures | None = None) -> Reproduced:
        moments = 0

        def seen(moment: list[Event]) -> None:
            nonlocal moments
            moments += 1
            if figures is not None:
                figures.take(moment)
            if self._progress is not None and moments % MOMENTS_TOLD == 0:
                self._progress(moment[0].recorded_at)

        return reproduce(self._events(self._begins - 1), self._start, self._ended, seen)

    def _decide(self, changes: Changes, before: Book, known: Reproduced, said: list[str]) -> Answer:
        """Decide anew what goes on from ``before``; what the window has before it came out as it was."""
        recorded = self._measures(self._start).take(self._events(self._begins - 1)).finish()
        simulated = self._measures(_changed(self._start, changes))
        ids = {}
        for row in self._past.log.read(self._begins - 1, before.position):
            simulated.take([from_row(row)])
            if row.allocation is not None:
                ids[row.allocation] = row.allocation

        def take(event: Event) -> None:
            simulated.take([event])
            if self._taken is not None:
                self._taken(event)

        replay = Replay(
            load(dump(before)),
            read_window(self._events(before.position), before),
            changes,
            self._ended,
            recorded=self._events(before.position),
            looks=known.looks,
            taken=take,
        )
        done = replay.run(self._progress)
        done.ids = ids | done.ids
        simulated.finish()
        compared = replay.compared
        return Answer(
            self._begins,
            self._ends,
            *self._bounds,
            compared.differs is None,
            known.same + compared.same,
            compared.parted_at,
            compared.first or compared.differs,
            recorded,
            simulated,
            _differing(recorded, simulated, done) if compared.parted else [],
            [*said, *_assumptions(changes, done)],
        )


def _changed(start: Book, changes: Changes) -> Book:
    book = load(dump(start))
    changes.put_into(book)
    return book


def _window(past: Past, since: int | None, upto: int | None) -> tuple[int, int]:
    """The first and the last position; a commit that either lies in the middle of counts whole."""
    head = past.log.head().position
    first = max(past.first + 1, since or 0)
    last = head if upto is None else min(upto, head)
    if last < first:
        raise InvalidInput("nothing was recorded in this window", "choose a longer one")
    moment = past.recorded_at(last)
    for row in past.log.read(last):
        if row.recorded_at != moment:
            break
        last = row.position
    return _commit_begins(past, first), last


def _commit_begins(past: Past, position: int) -> int:
    """The first position of the commit that a position belongs to."""
    row = past.row(position)
    while row is not None and position > past.first + 1:
        before = past.row(position - 1)
        if before is None or before.recorded_at != row.recorded_at:
            break
        position -= 1
    return position


def _check(changes: Changes, start: Book, rows: Iterable[Row]) -> None:
    """Raise InvalidInput where a pool or a node that is meant is not there all through the window."""
    named = {changes.pool, *(pool for pool, _ in changes.sizes)} - {None}
    if not named:
        return
    pools = set(start.pools)
    nodes = {(pool.name, node) for pool in start.pools.values() for node in pool.space.nodes}
    for row in rows:
        if row.type not in (PoolOpened.TYPE, NodeJoined.TYPE) or row.pool is None:
            continue
        body = from_row(row).body
        if isinstance(body, PoolOpened):
            pools.add(row.pool)
            nodes |= {(row.pool, spec.name) for spec in body.nodes}
        elif isinstance(body, NodeJoined):
            nodes.add((row.pool, body.node.name))
    for name in named:
        if name not in pools:
            known = ", ".join(sorted(pools)[:8]) or "none"
            raise InvalidInput(f"there is no pool {name!r} in this window", f"there are: {known}")
    for pool, node in changes.sizes:
        if (pool, node) not in nodes:
            raise InvalidInput(
                f"pool {pool} has no node {node!r}", f"see `leasebook pool show {pool}`"
            )


def _differing(recorded: Measures, simulated: Measures, done: Replayed) -> list[Differing]:
    found = []
    for key, before in recorded.fates.items():
        name = done.ids.get(key)
        if name is None and key.startswith("R"):
            # It was refused here too, or is not asked again: no other fate.
            continue
        after = None if name is None else simulated.fates.get(name)
        if after is None or _essence(before) != _essence(after):
            found.append(Differing(key, name, before, after))
    return found


def _essence(fate: Fate) -> tuple[Any, ...]:
    return fate.state, fate.granted_at, fate.ended_at, fate.nodes


def _fate_json(each: Differing) -> dict[str, Any]:
    def one(fate: Fate | None) -> dict[str, Any] | None:
        if fate is None:
            return None
        held = None
        if fate.granted_at is not None and fate.ended_at is not None:
            held = (fate.ended_at - fate.granted_at) / SECOND_NS
        return {
            "state": fate.state,
            "wait_s": None if fate.wait_ns is None else fate.wait_ns / SECOND_NS,
            "held_s": held,
            "nodes": list(fate.nodes),
        }

    return {
        "id": each.recorded_id,
        "simulated_id": each.simulated_id,
        "holder": each.recorded.holder,
        "task": each.recorded.task,
        "pool": each.recorded.pool,
        "recorded": one(each.recorded),
        "simulated": one(each.simulated),
    }


def _assumptions(changes: Changes, done: Replayed) -> list[str]:
    said = list(_ALWAYS) if changes else []
    left = done.left
    if changes.policy.get("strategy") is not None and changes.keep_strategies:
        said.append("a request that named a strategy of its own keeps it")
    if changes.nodes < 0:
        said.append("a node that is taken away while it is in use takes nothing new from the start")
    if left.guessed:
        said.append(
            "what was held here and not in the record, or longer, is held for the median time of its"
            f" task, else of its holder, else of its pool (so often: {left.guessed})"
        )
    if left.retries:
        said.append(
            "a request that only asks again for what was given already here counts as the same one"
            f" (so often: {left.retries})"
        )
    if left.repeats:
        said.append(f"repeats of refusals that are none here are left out ({left.repeats})")
    if left.pointless:
        said.append(
            "commands about what is not held here, or has ended already, are left out"
            f" ({left.pointless})"
        )
    if left.unknown and changes:
        said.append(
            "refused commands whose content is not in the record, such as an adjust, stay refused"
            f" ({left.unknown})"
        )
    if left.invalid:
        said.append(f"commands that make no sense here are left out ({left.invalid})")
    return said


__all__ = ["Answer", "Changes", "Differing", "ask"]
