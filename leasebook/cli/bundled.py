"""An incident bundle where the verbs expect a ledger: the same questions, read-only.

What was so before the bundle's first event is known as a state, not as events. Of an allocation that
held or waited then, the state stands in for the events that are not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from leasebook.cli.failures import FAILED, Failure
from leasebook.cli.session import Room, Session
from leasebook.questions import Questions
from ledger.advance import advance
from ledger.book import Allocation, Book
from ledger.codec import from_row
from ledger.events import Allocated, AnyBody, Ending, Event, Queued, Reserved
from ledger.step import is_due, settle_due

if TYPE_CHECKING:
    from leasebook.manager import Ledger
    from leasebook.moments import Moments
    from ledger.writer import Writer
    from reports.incidents.reading import Bundle

T = TypeVar("T")


class BundleSession(Session):
    """The session of a verb that looks into a bundle."""

    def __init__(self, outer: Session, bundle: Bundle) -> None:
        super().__init__(None, outer.json)
        self._bundle = bundle

    @contextlib.contextmanager
    def open(self, *, create: bool = False, read_only: bool = False) -> Iterator[Room]:
        """The bundle as a room. Raises Failure for whoever would write."""
        if create or not read_only:
            raise Failure(
                "read_only", "a bundle can only be read", "write to the ledger itself", FAILED
            )
        yield _BundleRoom(self._bundle)


class _BundleRoom(Room):
    def __init__(self, bundle: Bundle) -> None:
        self._reader = _Reader(bundle)
        self.ledger = cast("Ledger", SimpleNamespace(writer=self._reader, path=None))

    @property
    def ask(self) -> Questions:
        """What can be read."""
        return _BundleQuestions(self._reader)


class _Reader:
    """The reading half of a writer, over a bundle. Its present is the end of the window."""

    snapshots = None

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.log = bundle.log
        self.now = max(bundle.log.head().recorded_at, bundle.manifest.until or 0)

    def read(self, question: Callable[[Book, int], T]) -> T:
        """Ask the book at the bundle's end; what is due by then counts as ended."""
        book = self.bundle.past().book_at(self.bundle.manifest.last)
        while is_due(book, self.now):
            settle_due(book, self.now, grant=False)
        return question(book, self.now)

    def present(self, allocation: str) -> Allocation | None:
        """An allocation at the bundle's end, ended ones included; None where there is none."""
        found = self.read(lambda book, now: book.allocations.get(allocation))
        if found is not None:
            return found
        state: Allocation | None = None
        for event in self.events_of(allocation):
            state = advance(state, event) or state
        return state

    def events_of(self, allocation: str) -> list[Event]:
        """An allocation's events, those before the bundle as the state before it tells them."""
        before = self.bundle.base.allocations.get(allocation)
        known = [] if before is None else list(_told_by(before))
        return [*known, *map(from_row, self.log.rows_of_allocation(allocation))]


class _BundleQuestions(Questions):
    def __init__(self, reader: _Reader) -> None:
        super().__init__(cast("Writer", reader), None)
        self._reader = reader

    def _events_of(self, allocation: str) -> list[Event]:
        return self._reader.events_of(allocation)

    def moments(self) -> Moments:
        """The bundle's past, as far as it is in it."""
        from leasebook.cli.bundle_moments import BundleMoments
        from projections.travel import Travel

        now, bundle = self._reader.now, self._reader.bundle
        return BundleMoments(Travel(bundle.past(), now=now), now, bundle.manifest)


def _told_by(a: Allocation) -> Iterator[Event]:
    """Events that lead to an allocation as it is."""
    granted_at = a.granted_at if a.granted_at is not None else a.requested_at
    at, position = granted_at, a.token
    queued_at = a.requested_at if a.requested_at != granted_at else None
    more: dict[str, Any] = {"strategy": a.strategy, "gang": a.gang}
    body: AnyBody
    if a.state == "waiting":
        at, position = a.requested_at, a.position
        short = {} if a.claim is None else {a.claim: a.request.amounts}
        body = Queued(a.request, a.deadline or at, "waiting", short, a.gang)
    elif a.state == "reserved":
        body = Reserved(
            a.request, a.amounts, a.placements, a.deadline or at, queued_at=queued_at, **more
        )
    else:
        body = Allocated(
            a.request, a.amounts, a.placements, a.lease_until, a.max_age_until, queued_at, **more
        )
    yield _event(a, at, position, body)
    if a.state == "ending":
        cause = a.ending_cause or "forced"
        ending = Ending(cause, a.deadline or at, a.enforced, "ledger")
        yield _event(a, at, position, ending)


def _event(a: Allocation, at: int, position: int, body: AnyBody) -> Event:
    return Event(position, at, at, a.tenant, a.pool, a.id, a.holder, a.task, None, body)
