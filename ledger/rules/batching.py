"""Batches: several requests under one command id, each on its own or all or none.

What does not fit now and may wait is one place in the queue (:mod:`ledger.rules.gangs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledger import commands as c
from ledger.book import Allocation, Book
from ledger.content import content_digest
from ledger.errors import Reason
from ledger.events import Allocated, Cause, Event, Refused, Reserved
from ledger.evolve import evolve
from ledger.rules import admission, gangs
from ledger.rules.answers import Draft, No
from ledger.rules.claims import barred_for
from ledger.rules.duplicates import refusal, report, twin_of
from ledger.rules.packing import STEPS_NOW, Packed, together
from ledger.rules.placement import Wish, seed_of, strategy_for
from ledger.rules.quotas import gang_over_quota

_FOR_WANT_OF_ROOM = (
    Reason.INSUFFICIENT_CAPACITY,
    Reason.RESERVED_FOR_WAITING,
    Reason.UNMANAGED_USE,
)
_MAY_PASS = (*_FOR_WANT_OF_ROOM, Reason.QUOTA_EXCEEDED)
"""What stops a batch now and may not later: for that it may wait."""


def batch_causes(command: c.AllocateBatch) -> list[Cause]:
    """One cause per item: the batch's id and digest, and the item's number."""
    digest = content_digest(command)
    count = len(command.items)
    return [Cause(command.command_id, digest, index, count) for index in range(count)]


def decide_item(
    book: Book,
    item: c.Allocate,
    cause: Cause,
    now: int,
    plan: admission.Plan = None,
    *,
    upto: int,
) -> tuple[Event, ...]:
    """What one request of a batch leads to: its outcome, and what made room for it.

    ``upto``: the position after which the batch began.
    """
    draft = Draft(book, now)
    admission.allocate(book, draft, item, cause, plan, upto)
    return tuple(draft.events)


def decide_batch(book: Book, command: c.AllocateBatch, now: int) -> tuple[Event, ...]:
    """An atomic batch: all or none, every item seeing those before it.

    Where they do not fit in their order, they are packed together in others. Where the batch cannot be
    granted whole now, it waits as one place if it may wait (a gang); else it is refused for what
    stopped the first item that failed, and nothing else happens.
    """
    answer = _one_by_one(book, command, now)
    if isinstance(answer, Event):
        plan = None
        if isinstance(answer.body, Refused) and answer.body.reason in _FOR_WANT_OF_ROOM:
            plan = _plan_for(book, command.items, _commands(command))
        packed = answer if plan is None else _one_by_one(book, command, now, plan)
        if isinstance(packed, Event):
            return _wait_as_gang(book, command, answer, now)
        answer = packed
    return answer


def _commands(command: c.AllocateBatch) -> list[str]:
    return [admission.command_of(cause) for cause in batch_causes(command)]


def _one_by_one(
    book: Book, command: c.AllocateBatch, now: int, plan: Packed | None = None
) -> tuple[Event, ...] | Event:
    """What the items of an atomic batch lead to in their order, or the first refusal."""
    overlay = book.fork()
    events: list[Event] = []
    causes = batch_causes(command)
    for number, (item, cause) in enumerate(zip(command.items, causes, strict=True)):
        # No item may wait on its own: it is the batch that does.
        alone = replace(item, request=replace(item.request, wait_ns=None))
        where = None if plan is None else plan[number]
        for event in decide_item(overlay, alone, cause, now, where, upto=book.position):
            if event.type == "refused":
                return event
            evolve(overlay, event)
            events.append(_with_request(event, item))
    return tuple(events)


def _with_request(event: Event, item: c.Allocate) -> Event:
    """A grant that carries the request as it was asked."""
    body = event.body
    if isinstance(body, Allocated | Reserved):
        return replace(event, body=replace(body, request=item.request))
    return event


def _wait_as_gang(
    book: Book, command: c.AllocateBatch, failed: Event, now: int
) -> tuple[Event, ...]:
    """Places in the queue for all items, as one; or the batch's refusal."""
    pool = book.pools.get(command.items[0].pool)
    causes = batch_causes(command)
    body = failed.body
    assert isinstance(body, Refused)
    if pool is None or command.items[0].request.wait_ns is None or body.reason not in _MAY_PASS:
        return (_refuse_batch(book, command, failed, now),)
    twins = [twin_of(book, pool, item) for item in command.items]
    for number, (item, twin) in enumerate(zip(command.items, twins, strict=True)):
        impossible = admission.never(book, item)
        if not isinstance(impossible, No) and twin and pool.policy.duplicates == "refuse":
            impossible = refusal(twin)
        if isinstance(impossible, No):
            draft = Draft(book, now)
            admission.refuse(draft, item, causes[number], impossible)
            return (_refuse_batch(book, command, draft.events[0], now),)
    wishes = [
        Wish(item.request, "first_fit", seed_of(each))
        for item, each in zip(command.items, _commands(command), strict=True)
    ]
    asked = [(item.tenant, item.holder, item.request.amounts) for item in command.items]
    never = gang_over_quota(book, pool.name, asked, ever=True)
    if never is None and not gangs.could_ever_fit(pool, wishes):
        never = No(
            Reason.EXCEEDS_POOL,
            f"{pool.name} cannot take all of it at once, even with nothing in use",
            "ask for less at once, or enlarge the pool",
        )
    if never is None:
        never = admission.queue_full(pool, pool.space, len(command.items))
    if never is not None:
        return (_refuse_together(book, command, never, now),)
    why = No(Reason(body.reason), body.message, body.hint, body.shortfall)
    draft = Draft(book, now)
    first = f"A{draft.position + 1}"
    for item, cause in zip(command.items, causes, strict=True):
        admission.enqueue(pool, pool.space, draft, item, cause, why, first)
    _report_twins(book, draft, twins)
    return tuple(draft.events)


def _report_twins(book: Book, draft: Draft, twins: Sequence[Allocation | None]) -> None:
    """Draft an alert for each that is repeated by what was drafted, in the same order, to wait."""
    told = set(book.alerts)
    for event, twin in zip(tuple(draft.events), twins, strict=True):
        if twin is not None and event.allocation is not None:
            alert = report(twin, event.allocation)
            if alert.alert not in told:
                draft.add(alert, tenant="")
                told.add(alert.alert)


def _refuse_batch(
    book: Book, command: c.AllocateBatch, failed: Event, now: int, *, together: bool = False
) -> Event:
    body = failed.body
    assert isinstance(body, Refused)
    draft = Draft(book, now)
    number = failed.cause.item if failed.cause is not None else 0
    of_item = "" if together else f", because of its item {number}"
    no = Refused(
        command.VERB,
        body.reason,
        f"nothing of the batch was granted{of_item}: {body.message}",
        body.hint,
        body.request,
        body.shortfall,
        body.fits_now,
        body.blockers,
    )
    return draft.add(
        no,
        tenant=command.tenant,
        pool=failed.pool,
        holder=failed.holder,
        task=failed.task,
        cause=failed.cause,
    )


def _refuse_together(book: Book, command: c.AllocateBatch, no: No, now: int) -> Event:
    """The refusal of a batch for what stands in the way of all of it together."""
    draft = Draft(book, now)
    admission.refuse(draft, command.items[0], batch_causes(command)[0], no)
    return _refuse_batch(book, command, draft.events[0], now, together=True)


def _plan_for(book: Book, items: Sequence[c.Allocate], commands: Sequence[str]) -> Packed | None:
    """Where the items of an atomic batch fit together now, or None. All of one pool, or none.

    ``commands``: what each one's randomised choices are seeded with.
    """
    first = items[0]
    asked = {(item.pool, item.request.parent) for item in items}
    space = book.space_of(first.pool, first.request.parent) if len(asked) == 1 else None
    if space is None:
        return None
    pool = book.pools[first.pool]
    wishes = []
    for item, command in zip(items, commands, strict=True):
        request, seed = item.request, seed_of(command)
        barred = barred_for(book, space, request.amounts)
        wishes.append(Wish(request, strategy_for(request, pool.policy, seed), seed, barred))
    return together(space, pool.mix, wishes, STEPS_NOW)
