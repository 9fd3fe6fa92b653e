"""One step of the ledger on a private book: decide, evolve, and hand freed capacity to the queue.

The writer, what-if and the tests all take the same step, so what is tried out is what happens. The
only thing that changes is the book that is passed in.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.book import REFUSAL_WINDOW_NS, Allocation, Book
from ledger.commands import AllocateBatch, AnyCommand, WriteDue
from ledger.decide import batch_causes, check, decide, decide_item
from ledger.events import Event, Refused
from ledger.evolve import evolve, refusal_key
from ledger.rules.leases import next_due
from ledger.rules.waiting import next_grant

DUE_AT_ONCE = 2_000
"""How many ended allocations one step writes down; the rest follows in the next."""


class Step:
    """What one command came to: the events to record, in order, and which of them are its own.

    ``own`` are the command's direct effects, from which its receipt is made. A refusal that repeats
    one recorded within the last second stands in ``own`` under the first one's position, and in
    ``repeats``, but not in ``events``.
    """

    __slots__ = ("events", "own", "repeats")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.own: tuple[Event, ...] = ()
        self.repeats: list[Event] = []


def is_due(book: Book, now: int) -> bool:
    """Whether time has ended something that is not written down yet."""
    when = next_due(book)
    return when is not None and when <= now


def settle_due(
    book: Book, now: int, limit: int = DUE_AT_ONCE, *, grant: bool = True
) -> list[Event]:
    """Write down what time has ended, at most ``limit`` of it, and grant what that frees.

    Without ``grant`` nothing is handed on: what a reader sees has ended, but nobody holds it yet.
    """
    events: list[Event] = []
    if is_due(book, now):
        for event in decide(book, WriteDue(command_id="", limit=limit), now):
            evolve(book, event)
            events.append(event)
        if grant:
            grant_waiting(book, now, events)
    return events


def grant_waiting(book: Book, now: int, events: list[Event]) -> None:
    """Grant to those who wait, wherever something was freed. Appends to ``events``."""
    for space in book.spaces():
        while space.freed:
            if not space.waiting:
                space.freed = False
                break
            draft = next_grant(book, space, now)
            if draft is None:
                space.freed = False
                break
            for event in draft.events:
                evolve(book, event)
                events.append(event)


def _repeated(book: Book, event: Event, now: int) -> Event | None:
    """The refusal as a repeat of one recorded within the last second, or None."""
    body = event.body
    if not isinstance(body, Refused):
        return None
    first = book.recent_refusals.get(refusal_key(event, body))
    if first is None or first[1] <= now - REFUSAL_WINDOW_NS:
        return None
    return replace(event, position=first[0])


def _record(book: Book, step: Step, event: Event, now: int) -> Event:
    """Take one event into the book, unless it repeats a refusal."""
    repeat = _repeated(book, event, now) if event.body.TYPE == "refused" else None
    if repeat is not None:
        step.repeats.append(repeat)
        return repeat
    evolve(book, event)
    step.events.append(event)
    return event


def take_step(
    book: Book, command: AnyCommand, now: int, ended: Allocation | None = None
) -> Step:
    """Decide one command at ``now`` and evolve ``book`` by all that follows from it.

    What is due must have been settled (:func:`settle_due`). Raises InvalidInput before anything has
    changed; whatever else it raises leaves the book to be thrown away.
    """
    step = Step()
    if isinstance(command, AllocateBatch) and not command.atomic:
        check(command)
        own = []
        for item, cause in zip(command.items, batch_causes(command), strict=True):
            event = decide_item(book, item, cause, now)
            if event.body.TYPE == "refused":
                # A batch's refusals are all kept: its receipt is made of them on every replay.
                evolve(book, event)
                step.events.append(event)
                own.append(event)
            else:
                own.append(_record(book, step, event, now))
        step.own = tuple(own)
        return step
    decided = decide(book, command, now, ended)
    kept = [_record(book, step, event, now) for event in decided]
    step.own = tuple([event for event in kept if event.cause is not None])
    if not _FREES_NOTHING.issuperset([event.body.TYPE for event in decided]):
        grant_waiting(book, now, step.events)
    return step


_FREES_NOTHING = frozenset(
    {"allocated", "reserved", "refused", "queued", "renewed", "usage_recorded", "holder_seen"}
)
