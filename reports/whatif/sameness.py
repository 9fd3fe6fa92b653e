"""Sameness: a replay's events against the recorded ones, in order, until the first that differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.codec import to_row
from ledger.events import Adjusted, Allocated, Event, Reserved
from ledger.log import GENESIS


class Comparison:
    """Where a replay parts from its record.

    ``differs``: the first recorded event that did not come out the same in every column, with what
    came instead. ``parted``: the first with another fate, such as another place or time; a request
    that is only written down otherwise, with another ttl for example, is no other fate yet.
    """

    def __init__(self, recorded: list[Event]) -> None:
        self._recorded = recorded
        self._at = 0
        self.same = 0
        self.differs: tuple[Event | None, Event | None] | None = None
        self.parted: bool = False
        self.parted_at: int | None = None
        self.first: tuple[Event | None, Event | None] | None = None

    def expected(self, now: int) -> Event | None:
        """The next recorded event, if it was written at this moment and nothing differed so far."""
        if self.parted or self._at >= len(self._recorded):
            return None
        event = self._recorded[self._at]
        return event if event.recorded_at == now else None

    def ahead(self) -> list[Event]:
        """The next recorded events, a few of them."""
        return self._recorded[self._at : self._at + 1_000]

    def next(self, event: Event) -> None:
        """One more simulated event."""
        if self.parted:
            return
        if self._at >= len(self._recorded):
            self._part(None, event)
            return
        recorded = self._recorded[self._at]
        if recorded == event or _columns(recorded) == _columns(event):
            self.same += self.differs is None
        elif self.differs is None:
            self.differs = (recorded, event)
        if self.differs is not None and fate_of(recorded) != fate_of(event):
            self._part(recorded, event)
            return
        self._at += 1

    def close(self, now: int) -> None:
        """A moment is over: all that was recorded in it has come about."""
        if self.parted or self._at >= len(self._recorded):
            return
        if self._recorded[self._at].recorded_at <= now:
            self._part(self._recorded[self._at], None)

    def end(self) -> None:
        """All is over."""
        if not self.parted and self._at < len(self._recorded):
            self._part(self._recorded[self._at], None)

    def _part(self, recorded: Event | None, event: Event | None) -> None:
        self.parted = True
        self.first = (recorded, event)
        if self.differs is None:
            self.differs = self.first
        at = recorded or event
        assert at is not None
        self.parted_at = at.position


def _columns(event: Event) -> tuple[Any, ...]:
    """What would be stored, in every column."""
    return tuple(to_row(event, GENESIS))


def fate_of(event: Event) -> tuple[Any, ...]:
    """What an event means for those it is about: what, for whom, when, and where."""
    body = event.body
    placed: Any = None
    if isinstance(body, Allocated | Reserved | Adjusted):
        placed = [(p.node, p.amounts, p.devices) for p in body.placements]
    about = (event.type, event.allocation, event.holder, event.pool)
    return (*about, event.at, event.recorded_at, placed)


def without_digest(event: Event) -> Event:
    """An event whose command is told by its id alone."""
    if event.cause is None:
        return event
    return replace(event, cause=replace(event.cause, digest=""))
