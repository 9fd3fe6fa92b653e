"""What a rule can answer: no, and why; and the sheet on which events are drafted."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.events import AnyBody, Cause, Event, make_event
from ledger.quick import dataclass
from ledger.requests import Amounts


@dataclass(frozen=True, slots=True)
class No:
    """A rule's refusal: the reason, one line for a person, what to do, and the facts behind it."""

    reason: Reason
    message: str
    hint: str = ""
    shortfall: dict[str, Amounts] = field(default_factory=dict)
    fits_now: Amounts = field(default_factory=dict)
    blockers: tuple[dict[str, Any], ...] = ()


class Draft:
    """Events in the making: hands out positions that go on from the book's."""

    __slots__ = ("events", "now", "position")

    def __init__(self, book: Book, now: int) -> None:
        self.position = book.position
        self.now = now
        self.events: list[Event] = []

    def add(
        self,
        body: AnyBody,
        *,
        tenant: str,
        pool: str | None = None,
        allocation: str | None = None,
        holder: str | None = None,
        task: str | None = None,
        cause: Cause | None = None,
        metadata: dict[str, Any] | None = None,
        at: int | None = None,
    ) -> Event:
        """Append one event at the next position; ``at`` defaults to now."""
        self.position += 1
        event = make_event(
            self.position,
            self.now if at is None else at,
            self.now,
            tenant,
            pool,
            allocation,
            holder,
            task,
            cause,
            body,
            metadata,
        )
        self.events.append(event)
        return event

    def on(
        self,
        allocation: Allocation,
        body: AnyBody,
        *,
        cause: Cause | None = None,
        at: int | None = None,
    ) -> Event:
        """Append an event about an allocation, which fills the envelope."""
        return self.add(
            body,
            tenant=allocation.tenant,
            pool=allocation.pool,
            allocation=allocation.id,
            holder=allocation.holder,
            task=allocation.task,
            cause=cause,
            at=at,
        )
