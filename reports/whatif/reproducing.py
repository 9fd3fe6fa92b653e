"""Reproducing: the record decided again as it was, moment by moment, against what it says.

Each moment is one transaction of some writer. All that a writer knows beyond the record is what was
freed since it last handed anything on: one that goes on knows of nothing, one that has read what others
wrote, or has just opened the ledger, knows of all since then, and looks there once more at its own time.
So where a moment does not come out, it is tried as by writers that were away for longer and longer.
Only one moment lies in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from ledger import commands as c
from ledger.book import Book
from ledger.codec import to_row
from ledger.errors import InvalidInput, LedgerCorrupt
from ledger.events import Event
from ledger.evolve import evolve
from ledger.fields import dump, load
from ledger.log import GENESIS
from ledger.spaces import Space
from ledger.step import grant_waiting, is_due, note, settle_due, take_step
from reports.whatif.actions import CLOCK, Action, acts_of
from reports.whatif.mapping import Ended
from reports.whatif.sameness import with_digest
from reports.whatif.unseen import is_refused_command, settle_unseen

TRIES_MAX = 64
"""The most ways in which one moment is tried."""

Key = tuple[str, str | None]
"""A space: its key, and the allocation that lends it, if any."""


def key_of(space: Space) -> Key:
    """How a space is told from others."""
    return space.key, space.parent


@dataclass(slots=True)
class Reproduced:
    """What came of it. ``same`` events came out in every column.

    ``looks``: moment → the spaces where its writer knew of something freed that nobody had looked at;
    for moments that come out only so. ``parted``: the first recorded event that does not come out, and
    what comes instead; ``before`` is then the book before its moment.
    """

    same: int = 0
    looks: dict[int, frozenset[Key]] = field(default_factory=dict)
    parted: tuple[Event | None, Event | None] | None = None
    before: Book | None = None


class _Parted(Exception):
    def __init__(self, recorded: Event | None, simulated: Event | None) -> None:
        super().__init__()
        self.pair = recorded, simulated


class _Moment:
    """One moment decided on a book, which is changed. Raises _Parted."""

    def __init__(self, book: Book, wanted: list[Event], ended: Ended) -> None:
        self.book = book
        self.now = wanted[0].recorded_at
        self._wanted = wanted
        self._at = 0
        self._ended = ended

    def decide(self, actions: list[Action]) -> None:
        """Findings of the clock, what is due, then the rest in its order."""
        for action in actions:
            if action.phase == CLOCK:
                self._do(action)
        if is_due(self.book, self.now):
            self._take(settle_due(self.book, self.now))
        for action in actions:
            if action.phase != CLOCK:
                self._unseen()
                self._do(action)
        self._unseen()
        if self._at < len(self._wanted):
            raise _Parted(self._wanted[self._at], None)

    def _unseen(self) -> None:
        if self._at < len(self._wanted) and self._wanted[self._at].cause is None:
            self._take(settle_unseen(self.book, self._wanted[self._at :], self.now))

    def _do(self, action: Action) -> None:
        command = action.command
        if command is None:
            self._copy(action.own)
            return
        ended = None
        if isinstance(command, c.Targeted | c.RecordUsage):
            there = command.allocation in self.book.allocations
            ended = None if there else self._ended(command.allocation)
        try:
            if action.phase == CLOCK:
                events = note(self.book, command, self.now)
            else:
                events = take_step(self.book, command, self.now, ended).events
        except InvalidInput:
            # What was carried out once is refused outright by this program.
            raise _Parted(action.own[0], None) from None
        digest = next((e.cause.digest for e in action.own if e.cause is not None), None)
        self._take([with_digest(e, command.command_id, digest) for e in events])

    def _copy(self, own: tuple[Event, ...]) -> None:
        """What cannot be decided again stands as it was; what it freed is handed on all the same."""
        for event in own:
            evolve(self.book, event)
            self._take([event])
        if own[0].cause is not None and is_refused_command(own[-1]):
            events: list[Event] = []
            grant_waiting(self.book, self.now, events)
            self._take(events)

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._at >= len(self._wanted):
                raise _Parted(None, event)
            recorded = self._wanted[self._at]
            if recorded != event and to_row(recorded, GENESIS) != to_row(event, GENESIS):
                raise _Parted(recorded, event)
            self._at += 1


def reproduce(
    events: Iterable[Event],
    start: Book,
    ended: Ended,
    seen: Callable[[list[Event]], None] = lambda moment: None,
) -> Reproduced:
    """Decide consecutive events that go on from ``start`` again, until one does not come out.

    ``seen`` is called with each moment that came out, or was to.
    """
    done = Reproduced()
    reader, before, book = (load(dump(start)) for _ in range(3))
    freed: dict[Key, int] = {key_of(space): start.position for space in start.spaces()}
    for now, group in groupby(events, key=lambda event: event.recorded_at):
        wanted = list(group)
        actions = [each for each in acts_of(wanted, reader) if isinstance(each, Action)]
        parted = _try(book, wanted, actions, ended)
        if parted is not None:
            found = _try_others(before, freed, wanted, actions, ended)
            if found is None:
                done.parted, done.before = parted, before
                seen(wanted)
                return done
            book, done.looks[now] = found
        _go_on(before, wanted, freed)
        done.same += len(wanted)
        seen(wanted)
    return done


def _try(
    book: Book, wanted: list[Event], actions: list[Action], ended: Ended
) -> tuple[Event | None, Event | None] | None:
    try:
        _Moment(book, wanted, ended).decide(actions)
    except _Parted as parted:
        return parted.pair
    except LedgerCorrupt:
        # What is copied does not go on from what was decided.
        return wanted[0], None
    return None


def _try_others(
    before: Book,
    freed: dict[Key, int],
    wanted: list[Event],
    actions: list[Action],
    ended: Ended,
) -> tuple[Book, frozenset[Key]] | None:
    """The book after a moment that comes out to a writer that had been away, and what it looked at."""
    matter = [key_of(s) for s in before.spaces() if s.waiting or s.elastic]
    matter.sort(key=lambda key: -freed.get(key, 0))
    sizes = [len(matter), *range(len(matter))]
    for size in sizes[:TRIES_MAX]:
        book = load(dump(before))
        looks = frozenset(matter[:size])
        for space in book.spaces():
            space.freed = key_of(space) in looks
        if _try(book, wanted, actions, ended) is None:
            return book, looks
    return None


def _go_on(before: Book, wanted: list[Event], freed: dict[Key, int]) -> None:
    for event in wanted:
        evolve(before, event)
    for space in before.spaces():
        if space.freed:
            freed[key_of(space)] = before.position
            space.freed = False
