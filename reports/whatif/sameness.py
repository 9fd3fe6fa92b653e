"""Sameness: a replay's events against the recorded ones, in order, until the first that differs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ledger.canonical import loads
from ledger.codec import to_row
from ledger.events import Adjusted, Allocated, Event, Reserved
from ledger.log import GENESIS, Row

_TOLD = tuple(name for name in Row._fields if name not in ("data", "digest", "hash"))


class Comparison:
    """Where a replay parts from its record.

    ``differs``: the first recorded event that did not come out the same in every column, with what
    came instead. ``parted``: the first with another fate, such as another place or time; a request
    that is only written down otherwise, with another ttl for example, is no other fate yet.
    """

    def __init__(self, recorded: Iterable[Event]) -> None:
        """``recorded`` is read as far as it is needed, and no further once all has parted."""
        self._source = iter(recorded)
        self._coming: deque[Event] = deque()
        self.same = 0
        self.differs: tuple[Event | None, Event | None] | None = None
        self.parted: bool = False
        self.parted_at: int | None = None
        self.first: tuple[Event | None, Event | None] | None = None

    def expected(self, now: int) -> Event | None:
        """The next recorded event, if it was written at this moment and nothing differed so far."""
        event = self._next_recorded()
        return event if event is not None and event.recorded_at == now else None

    def ahead(self, now: int) -> list[Event]:
        """The recorded events of this moment that have not come about yet."""
        while not self.parted and (not self._coming or self._coming[-1].recorded_at == now):
            event = next(self._source, None)
            if event is None:
                break
            self._coming.append(event)
        return [event for event in self._coming if event.recorded_at == now]

    def next(self, event: Event) -> None:
        """One more simulated event."""
        if self.parted:
            return
        recorded = self._next_recorded()
        if recorded is None:
            self._part(None, event)
            return
        if recorded == event or _columns(recorded) == _columns(event):
            self.same += self.differs is None
        elif self.differs is None:
            self.differs = (recorded, event)
        if self.differs is not None and fate_of(recorded) != fate_of(event):
            self._part(recorded, event)
            return
        self._coming.popleft()

    def close(self, now: int) -> None:
        """A moment is over: all that was recorded in it has come about."""
        recorded = self._next_recorded()
        if recorded is not None and recorded.recorded_at <= now:
            self._part(recorded, None)

    def end(self) -> None:
        """All is over."""
        recorded = self._next_recorded()
        if recorded is not None:
            self._part(recorded, None)

    def _next_recorded(self) -> Event | None:
        if self.parted:
            return None
        if not self._coming:
            event = next(self._source, None)
            if event is not None:
                self._coming.append(event)
        return self._coming[0] if self._coming else None

    def _part(self, recorded: Event | None, event: Event | None) -> None:
        self.parted = True
        self._source = iter(())
        self._coming.clear()
        self.first = (recorded, event)
        if self.differs is None:
            self.differs = self.first
        at = recorded or event
        assert at is not None
        self.parted_at = at.position


def _columns(event: Event) -> tuple[Any, ...]:
    """What would be stored, in every column."""
    return tuple(to_row(event, GENESIS))


def differing_in(recorded: Event | None, simulated: Event | None) -> list[str]:
    """The columns in which two events differ, and of ``data`` what in it; of what is not there, none."""
    if recorded is None or simulated is None:
        return []
    one, other = to_row(recorded, GENESIS), to_row(simulated, GENESIS)
    names = [name for name in _TOLD if getattr(one, name) != getattr(other, name)]
    said, instead = loads(one.data), loads(other.data)
    keys = sorted({*said, *instead})
    return names + [f"data.{key}" for key in keys if said.get(key) != instead.get(key)]


def fate_of(event: Event) -> tuple[Any, ...]:
    """What an event means for those it is about: what, for whom, when, and where."""
    body = event.body
    placed: Any = None
    if isinstance(body, Allocated | Reserved | Adjusted):
        placed = [(p.node, p.amounts, p.devices) for p in body.placements]
    about = (event.type, event.allocation, event.holder, event.pool)
    return (*about, event.at, event.recorded_at, placed)


def with_digest(event: Event, command_id: str, digest: str | None) -> Event:
    """An event of a command that was rebuilt, under the digest that the command had in the record."""
    cause = event.cause
    if digest is None or cause is None or cause.command_id != command_id or cause.digest == digest:
        return event
    return replace(event, cause=replace(cause, digest=digest))
