"""Actions: a window of the record as what was done in it, and when.

An :class:`Action` is one command with the events that it came to. Events without a cause are the
ledger's own consequences, which the rules bring about again; but for two kinds that come of no
command in the record: counted repeats of a refusal, and checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from ledger import commands as c
from ledger.advance import ENDS, GRANTS
from ledger.book import Book
from ledger.events import Checkpointed, Ending, Event, Queued, Refused
from ledger.evolve import evolve
from ledger.fields import dump, load
from reports.whatif.commands import batch_of, command_of

CLOCK, ORDINARY = 0, 2
"""What a transaction does first, and what comes after everything due is written down."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is still to be known of a recorded event once its command is: the rest would fill memory.

    ``request``: it says what was asked. ``digest`` is its command's.
    """

    position: int
    allocation: str | None
    refused: bool
    request: bool
    digest: str | None


@dataclass(slots=True)
class Action:
    """Something that was done at ``time`` (ns UTC), ``order`` being its place in the record.

    ``command`` is None for what can only be copied: ``own`` are the recorded events. In a window others
    keep ``marks`` of them instead. ``about`` is the
    allocation that it was done to, by its recorded id; ``held``: after it was granted. ``asked_to_go``:
    it was on its way out by then, because the ledger wanted it. ``guess``: not from the record.
    """

    time: int
    order: int
    command: c.AnyCommand | None
    own: tuple[Event, ...] = ()
    marks: tuple[Mark, ...] = ()
    phase: int = ORDINARY
    about: str | None = None
    held: bool = False
    asked_to_go: bool = False
    guess: bool = False


@dataclass(slots=True)
class Life:
    """What the record says of one request: ``key`` is its allocation's id, or ``R`` + its refusal's
    position.

    ``granted_at`` is its first grant, ``ended_by`` as an allocation's; ``gone_at`` is when its end was
    written down, which may be later than it was; ``by_rule``: it ended without
    a command. ``tenure`` is what was done to it while it held.
    """

    key: str
    asked_at: int
    pool: str
    tenant: str
    holder: str
    task: str | None
    amounts: dict[str, int]
    granted_at: int | None = None
    ended_at: int | None = None
    gone_at: int | None = None
    ended_by: str | None = None
    by_rule: bool = False
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    tenure: list[Action] = field(default_factory=list)


@dataclass(slots=True)
class Window:
    """A stretch of the record: its moments (one for each commit), and what was done."""

    moments: list[int]
    actions: list[Action]
    lives: dict[str, Life]


def read_window(events: Iterable[Event], start: Book) -> Window:
    """The actions of consecutive events that go on from ``start``, which is left as it is."""
    book = load(dump(start))
    window = Window([], [], _lives_of(book))
    for moment, group in groupby(events, key=lambda event: event.recorded_at):
        window.moments.append(moment)
        _read_moment(window, book, list(group))
    return window


def _lives_of(book: Book) -> dict[str, Life]:
    lives = {}
    for a in book.allocations.values():
        life = Life(a.id, a.requested_at, a.pool, a.tenant, a.holder, a.task, a.request.amounts)
        if a.state != "waiting":
            life.granted_at = a.granted_at or a.requested_at
            life.nodes = tuple(p.node for p in a.placements)
        lives[a.id] = life
    return lives


def _read_moment(window: Window, book: Book, events: list[Event]) -> None:
    for each in acts_of(events, book):
        if isinstance(each, Event):
            _note(window, each)
        else:
            _add(window, each)


def acts_of(events: list[Event], book: Book) -> Iterator[Action | Event]:
    """What was done in one moment, each action before its first event.

    ``book`` is the one before the moment; it is evolved by each event after that was given.
    """
    clocks = {f"{what}-{events[0].recorded_at}" for what in ("slept", "jumped", "clock")}
    leading = True
    of_batch: set[int] = set()
    for number, event in enumerate(events):
        cause = event.cause
        leading = leading and cause is not None and cause.command_id in clocks
        if event.position not in of_batch:
            action = _action_of(event, book, events[number:])
            if action is not None:
                action.phase = CLOCK if leading else ORDINARY
                if cause is not None and cause.items is not None:
                    of_batch.update(own.position for own in action.own)
                yield action
        yield event
        evolve(book, event)


def _of_batch(events: list[Event]) -> list[Event]:
    """The outcomes of the items of the batch whose first event is the first of these."""
    own = events[:1]
    for event in events[1:]:
        if event.cause is not None:
            if not _goes_on(own, event):
                break
            own.append(event)
    return own


def _goes_on(batch: list[Event], event: Event) -> bool:
    first, cause = batch[0], event.cause
    last = batch[-1].cause
    assert cause is not None and last is not None and first.cause is not None
    return (
        event.tenant == first.tenant
        and (cause.command_id, cause.digest) == (first.cause.command_id, first.cause.digest)
        and cause.item is not None
        and cause.item > (last.item or 0)
    )


def _action_of(event: Event, book: Book, onwards: list[Event]) -> Action | None:
    """What an event was the effect of, or the first effect. ``onwards``: it and all behind it."""
    body, cause = event.body, event.cause
    time, order = event.recorded_at, event.position
    if _is_elsewhere(event, book):
        return Action(time, order, None, (event,))
    if cause is None:
        if isinstance(body, Checkpointed):
            return Action(time, order, c.TakeCheckpoint(command_id=""), (event,))
        if isinstance(body, Refused) and body.repeats_of is not None:
            return Action(time, order, None, (event,))
        return None
    if cause.items is not None:
        own = _of_batch(onwards)
        return Action(time, order, batch_of(own, book), tuple(own))
    action = Action(time, order, command_of(event, book), (event,))
    if isinstance(action.command, c.Targeted | c.RecordUsage):
        action.about = event.allocation
        before = book.allocations.get(event.allocation or "")
        action.held = before is None or before.state != "waiting"
    return action


def _is_elsewhere(event: Event, book: Book) -> bool:
    """Whether an event is of history that was imported: it happened, whatever our rules say."""
    pool = None if event.pool is None else book.pools.get(event.pool)
    # A request that was sent there by mistake is one like any other, and may be one of a batch.
    return pool is not None and pool.kind == "observed" and not isinstance(event.body, Refused)


def _mark(event: Event) -> Mark:
    refused = isinstance(event.body, Refused)
    request = getattr(event.body, "request", None) is not None
    digest = None if event.cause is None else event.cause.digest
    return Mark(event.position, event.allocation, refused, request, digest)


def _add(window: Window, action: Action) -> None:
    if action.command is not None:
        action.marks, action.own = tuple(map(_mark, action.own)), ()
    life = None if action.about is None else window.lives.get(action.about)
    if life is not None and action.held and life.granted_at is not None:
        action.asked_to_go = life.by_rule
        life.tenure.append(action)
    else:
        window.actions.append(action)


def _note(window: Window, event: Event) -> None:
    """Keep the lives up with an event."""
    body = event.body
    if isinstance(body, Refused):
        if body.request is not None and body.repeats_of is None:
            life = _born(event, f"R{event.position}", body.request.amounts)
            life.reason = body.reason
            window.lives[life.key] = life
        return
    if event.allocation is None:
        return
    found = window.lives.get(event.allocation)
    if found is None and isinstance(body, (*GRANTS, Queued)):
        found = _born(event, event.allocation, body.request.amounts)
        window.lives[event.allocation] = found
    if found is None:
        return
    if isinstance(body, GRANTS):
        found.granted_at = event.at
        found.nodes = tuple(p.node for p in body.placements)
    elif isinstance(body, Ending):
        found.by_rule = event.cause is None
    elif isinstance(body, ENDS):
        found.ended_at, found.gone_at = event.at, event.recorded_at
        found.ended_by = getattr(body, "cause", None) or event.type
        found.by_rule = event.cause is None


def _born(event: Event, key: str, amounts: dict[str, int]) -> Life:
    return Life(
        key,
        event.at,
        event.pool or "",
        event.tenant,
        event.holder or "",
        event.task,
        amounts,
    )
