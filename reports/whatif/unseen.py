"""What was brought about by something that left no trace of its own.

A refusal that repeats one of the last second, a request that is answered with an earlier one, and a
command that changes nothing are not written down. But before a newcomer is looked at, whoever has waited
long enough gets a node kept for it; and after each command whatever was freed is handed on. That is
written down. So what the record has next, and nobody in it asked for, was brought about so, if the rules
agree.
"""

from __future__ import annotations

from ledger.advance import GRANTS
from ledger.book import Book
from ledger.events import Adjusted, Ending, Event, Queued, Reclaimed, Refused, Withdrawn
from ledger.evolve import evolve
from ledger.fields import dump, load
from ledger.rules.answers import Draft
from ledger.rules.claims import next_claim, next_late_claim
from ledger.spaces import Space
from ledger.step import CLAIMS_MAX, grant_waiting
from reports.whatif.sameness import fate_of

_HANDED_ON = (*GRANTS, Queued, Adjusted, Ending, Reclaimed, Withdrawn)
"""What handing on may begin with."""


def copy_of(book: Book) -> Book:
    """A copy that may be changed, with the same memory of what was freed."""
    copy = load(dump(book))
    for space, original in zip(copy.spaces(), book.spaces(), strict=True):
        space.freed = original.freed
    return copy


def settle_unseen(book: Book, ahead: list[Event], now: int) -> list[Event]:
    """Bring about what the record has next (``ahead``, of this moment) without a command, as far as
    the rules agree; the events, by which ``book`` was evolved.
    """
    taken: list[Event] = []
    while len(taken) < len(ahead):
        rest = ahead[len(taken) :]
        first = rest[0]
        if first.cause is not None or not isinstance(first.body, _HANDED_ON):
            break
        more = _claim(book, rest, now) or _hand_on(book, rest, now)
        if not more:
            break
        taken += more
    return taken


def _claim(book: Book, ahead: list[Event], now: int) -> list[Event]:
    """The claims that a newcomer to one space finds due."""
    waiting = book.allocations.get(ahead[0].allocation or "")
    if waiting is None or waiting.state != "waiting":
        return []
    space = book.space_of(waiting.pool, waiting.request.parent)
    if space is None:
        return []
    taken: list[Event] = []
    for _ in range(CLAIMS_MAX):
        draft = _next_due(book, space, now) if _is_claim(ahead, len(taken)) else None
        if draft is None or not _begins_with(ahead[len(taken) :], draft.events):
            break
        for event in draft.events:
            evolve(book, event)
            taken.append(event)
    return taken


def _next_due(book: Book, space: Space, now: int) -> Draft | None:
    return next_claim(book, space, now) or next_late_claim(book, space, now)


def _is_claim(ahead: list[Event], index: int) -> bool:
    if index >= len(ahead):
        return False
    event = ahead[index]
    return event.cause is None and isinstance(event.body, Queued)


def _hand_on(book: Book, ahead: list[Event], now: int) -> list[Event]:
    """What is handed on of what was freed; nothing where the record has it otherwise."""
    if not any(space.freed for space in book.spaces()):
        return []
    trial: list[Event] = []
    grant_waiting(copy_of(book), now, trial)
    if not trial or not _begins_with(ahead, trial):
        return []
    taken: list[Event] = []
    grant_waiting(book, now, taken)
    return taken


def _begins_with(ahead: list[Event], events: list[Event]) -> bool:
    first = ahead[: len(events)]
    return [fate_of(event) for event in first] == [fate_of(event) for event in events]


def is_refused_command(event: Event) -> bool:
    """Whether an event says that a command was refused, rather than counting repeats of that."""
    return isinstance(event.body, Refused) and event.body.repeats_of is None
