"""What commands led to that left no trace of their own.

A refusal that repeats one of the last second, and a request that is answered with an earlier one, are
not written down. But before a newcomer is looked at, whoever has waited long enough gets a node kept
for it, and that is. So a claim that nobody in the record asked for was brought about by such a command.
"""

from __future__ import annotations

from ledger.book import Book
from ledger.events import Event, Queued
from ledger.evolve import evolve
from ledger.fields import dump, load
from ledger.rules.claims import next_claim, next_late_claim
from ledger.step import CLAIMS_MAX, grant_waiting
from reports.whatif.sameness import Comparison, fate_of


def settle_unseen(book: Book, expected: Event, now: int, compared: Comparison) -> list[Event]:
    """The claims that the record has next, if the rules agree, and what is granted after them."""
    waiting = book.allocations.get(expected.allocation or "")
    if waiting is None or waiting.state != "waiting":
        return []
    space = book.space_of(waiting.pool, waiting.request.parent)
    if space is None:
        return []
    taken: list[Event] = []
    ahead = compared.ahead()
    for _ in range(CLAIMS_MAX):
        if not _is_claim(ahead, len(taken)):
            break
        draft = next_claim(book, space, now) or next_late_claim(book, space, now)
        if draft is None:
            break
        wanted = ahead[len(taken) : len(taken) + len(draft.events)]
        if [fate_of(event) for event in draft.events] != [fate_of(event) for event in wanted]:
            break
        for event in draft.events:
            evolve(book, event)
            taken.append(event)
    if taken:
        _hand_on(book, now, taken, ahead)
    return taken


def _is_claim(ahead: list[Event], index: int) -> bool:
    if index >= len(ahead):
        return False
    event = ahead[index]
    return event.cause is None and isinstance(event.body, Queued)


def _hand_on(book: Book, now: int, taken: list[Event], ahead: list[Event]) -> None:
    """A refused command hands on at its end, an answered one does not: the record says which it was."""
    trial: list[Event] = []
    copy = load(dump(book))
    for space, original in zip(copy.spaces(), book.spaces(), strict=True):
        space.freed = original.freed
    grant_waiting(copy, now, trial)
    wanted = ahead[len(taken) : len(taken) + len(trial)]
    if [fate_of(event) for event in trial] == [fate_of(event) for event in wanted]:
        grant_waiting(book, now, taken)
