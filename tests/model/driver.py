"""What stands between the state machine and the ledger: the pure core, or a writer over a log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from ledger.book import Allocation, Book
from ledger.commands import AnyCommand
from ledger.events import Event, Queued, Refused
from ledger.fields import book_digest, dump, load
from ledger.step import is_due, settle_due, take_step


@dataclass(frozen=True, slots=True)
class Taken:
    """What one command came to: all new events, and those that are its direct effect."""

    events: list[Event]
    own: list[Event]


class Driver(Protocol):
    """Gives time and commands to a ledger."""

    @property
    def book(self) -> Book:
        """The present book; only to be looked at."""
        ...

    def settle(self, now: int) -> list[Event]:
        """Write down what time has ended."""
        ...

    def take(self, command: AnyCommand, now: int, ended: Allocation | None) -> Taken:
        """Give one command; ``ended`` is its allocation where that has ended."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class PureDriver:
    """The pure core on a book in memory. Every step is taken on a snapshot's copy as well."""

    def __init__(self) -> None:
        self._book = Book()

    @property
    def book(self) -> Book:
        """As :meth:`Driver.book`."""
        return self._book

    def settle(self, now: int) -> list[Event]:
        """As :meth:`Driver.settle`."""
        events: list[Event] = []
        while is_due(self.book, now):
            more = settle_due(self.book, now)
            assert more, "what is due is written down, or it is not due"
            events += more
        return events

    def take(self, command: AnyCommand, now: int, ended: Allocation | None) -> Taken:
        """As :meth:`Driver.take`. A book read back from a snapshot decides the same."""
        copy = load(dump(self.book))
        assert book_digest(copy) == book_digest(self.book)
        tried = take_step(copy, command, now, ended)
        step = take_step(self.book, command, now, ended)
        for one, other in zip(step.events, tried.events, strict=True):
            assert _essence(one) == _essence(other), f"a snapshot decides {other}, not {one}"
        assert [e.position for e in step.own] == [e.position for e in tried.own]
        return Taken(step.events, list(step.own))

    def close(self) -> None:
        """Nothing to let go of."""


def _essence(event: Event) -> Event:
    """An event without the words of a shortfall, which may name another of several resources."""
    if isinstance(event.body, Refused):
        return replace(event, body=Refused(event.body.verb, event.body.reason, ""))
    if isinstance(event.body, Queued):
        return replace(event, body=replace(event.body, shortfall={}))
    return event
