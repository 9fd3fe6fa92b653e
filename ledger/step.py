"""One step of the ledger on a private book: decide, evolve, and hand freed capacity to the queue.

The writer, what-if and the tests all take the same step, so what is tried out is what happens. The
only thing that changes is the book that is passed in.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.book import REFUSAL_WINDOW_NS, Allocation, Book
from ledger.commands import Adjust, Allocate, AllocateBatch, AnyCommand, RecordFacts, WriteDue
from ledger.decide import check, decide, decide_facts
from ledger.events import Event, Refused
from ledger.evolve import evolve, refusal_key
from ledger.rules.answers import Draft
from ledger.rules.batching import batch_causes, decide_item
from ledger.rules.claims import next_claim, next_late_claim
from ledger.rules.cycles import alert_for
from ledger.rules.duplicates import twin_of
from ledger.rules.facts import Known
from ledger.rules.history import Outcome
from ledger.rules.leases import next_due
from ledger.rules.waiting import next_move
from ledger.spaces import Space

MOVES_MAX = 1_000_000
"""A bound on what one step can hand on; it is there to end a loop that a fault would make endless."""
CLAIMS_MAX = 10_000
DUE_AT_ONCE = 2_000
"""How many ended allocations one step writes down; the rest follows in the next."""


class Step:
    """What one command came to: the events to record, in order, and which of them are its own.

    ``own`` are the command's direct effects, from which its receipt is made. A refusal that repeats
    one recorded within the last second stands in ``own`` under the first one's position, and in
    ``repeats``, but not in ``events``. ``answer`` is the live allocation that a duplicate request was
    answered with. ``outcomes`` are those of recorded facts, in order.
    """

    __slots__ = ("answer", "events", "outcomes", "own", "repeats")

    def __init__(self) -> None:
        self.answer: str | None = None
        self.events: list[Event] = []
        self.outcomes: tuple[Outcome, ...] = ()
        self.own: tuple[Event, ...] = ()
        self.repeats: list[Event] = []


def is_due(book: Book, now: int) -> bool:
    """Whether time has ended something that is not written down yet."""
    when = next_due(book)
    return when is not None and when <= now


def settle_due(
    book: Book, now: int, limit: int = DUE_AT_ONCE, *, grant: bool = True
) -> list[Event]:
    """Write down what time has ended, about ``limit`` of it, and grant what that frees.

    Nothing is handed on while more is due: who waits may be among those whose time is up. Without
    ``grant`` nothing is at all: what a reader sees has ended, but nobody holds it yet.
    """
    events: list[Event] = []
    while len(events) < limit and is_due(book, now):
        for event in decide(book, WriteDue(command_id="", limit=limit - len(events)), now):
            evolve(book, event)
            events.append(event)
    if grant and events and not is_due(book, now):
        grant_waiting(book, now, events)
    return events


def grant_waiting(book: Book, now: int, events: list[Event]) -> None:
    """Serve those who wait, wherever something was freed. Appends to ``events``.

    What is sent away in one space may free a quota that holds somebody up in another: so this goes
    on until a whole round has moved nothing.
    """
    moves, before = 0, -1
    while before < moves < MOVES_MAX:
        before = moves
        for space in book.spaces():
            while space.freed and moves < MOVES_MAX:
                draft = next_move(book, space, now)
                if draft is None:
                    space.freed = False
                else:
                    _take(book, draft, events)
                    moves += 1


def _take(book: Book, draft: Draft, events: list[Event]) -> None:
    for event in draft.events:
        evolve(book, event)
        events.append(event)


def _spaces_asked(book: Book, command: AnyCommand) -> list[Space]:
    """The spaces of which a command asks for more."""
    where: set[tuple[str, str | None]] = set()
    if isinstance(command, Allocate):
        space = book.space_of(command.pool, command.request.parent)
        return [space] if space is not None and space.waiting else []
    if isinstance(command, AllocateBatch):
        where = {(item.pool, item.request.parent) for item in command.items}
    elif isinstance(command, Adjust):
        held = book.allocations.get(command.allocation)
        where = set() if held is None else {(held.pool, held.request.parent)}
    spaces = (book.space_of(*each) for each in sorted(where, key=str))
    return [space for space in spaces if space is not None and space.waiting]


def _settle_claims(book: Book, command: AnyCommand, now: int, events: list[Event]) -> None:
    """Before a newcomer is looked at, whoever has waited long enough gets a node kept for it, and what
    is kept in vain goes to those who wait.
    """
    for space in _spaces_asked(book, command):
        check(command)
        before = len(events)
        # What the space before it gave up may have served all who waited here.
        for _ in range(CLAIMS_MAX if space.waiting else 0):
            draft = next_claim(book, space, now) or next_late_claim(book, space, now)
            if draft is None:
                break
            _take(book, draft, events)
        if len(events) > before:
            grant_waiting(book, now, events)


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


def _settle_batch(book: Book, command: AllocateBatch, step: Step, now: int) -> None:
    """A batch that is not atomic: each request on its own, seeing those before it."""
    check(command)
    own = []
    upto = book.position
    for item, cause in zip(command.items, batch_causes(command), strict=True):
        _settle_claims(book, item, now, step.events)
        for event in decide_item(book, item, cause, now, upto=upto):
            # A batch's refusals are all kept: its receipt is made of them on every replay.
            evolve(book, event)
            step.events.append(event)
            if event.cause is not None:
                own.append(event)
    step.own = tuple(own)


def _answered_with(book: Book, command: AnyCommand) -> str | None:
    """The allocation that answers a duplicate request, where the pool's policy says so."""
    if not isinstance(command, Allocate):
        return None
    pool = book.pools.get(command.pool)
    if pool is None or pool.policy.duplicates != "answer":
        return None
    twin = twin_of(book, pool, command)
    return None if twin is None else twin.id


def record_facts(book: Book, command: RecordFacts, now: int, known: Known) -> Step:
    """The step of :class:`~ledger.commands.RecordFacts`, given what is known under its keys.

    Nothing is handed on by it: observed pools keep no accounts. Raises InvalidInput.
    """
    check(command)
    step = Step()
    events, step.outcomes = decide_facts(book, command, now, known)
    if events and events[0].body.TYPE == "refused":
        step.own = (_record(book, step, events[0], now),)
        return step
    for event in events:
        evolve(book, event)
    step.events = list(events)
    step.own = events
    return step


def note(book: Book, command: AnyCommand, now: int) -> list[Event]:
    """Decide one command and evolve ``book`` by its own events: nothing is handed on.

    For what has to be known before what is due is settled: who waits may be among those whose time is
    up, and a reader's book must not be handed on from at all.
    """
    events = list(decide(book, command, now))
    for event in events:
        evolve(book, event)
    return events


def take_step(book: Book, command: AnyCommand, now: int, ended: Allocation | None = None) -> Step:
    """Decide one command at ``now`` and evolve ``book`` by all that follows from it.

    What is due must have been settled (:func:`settle_due`). Raises InvalidInput before anything has
    changed; whatever else it raises leaves the book to be thrown away.
    """
    step = Step()
    if isinstance(command, AllocateBatch) and not command.atomic:
        _settle_batch(book, command, step, now)
    else:
        _settle_claims(book, command, now, step.events)
        step.answer = _answered_with(book, command)
        if step.answer is not None:
            return step
        kept = [_record(book, step, e, now) for e in decide(book, command, now, ended)]
        step.own = tuple([event for event in kept if event.cause is not None])
    for event in step.own:
        if event.body.TYPE == "queued" and event.allocation in book.allocations:
            alert = alert_for(book, book.allocations[event.allocation], now)
            if alert is not None:
                _take(book, alert, step.events)
    grant_waiting(book, now, step.events)
    return step
