"""Commands from events: what was asked, as far as the record tells it.

A command is rebuilt so that it can be decided again, not so that its digest comes out the same: a
claim (holder or token) was accepted once and is not in the record, so commands on an allocation are
decided as an operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ledger import commands as c
from ledger import events as e
from ledger.advance import LEDGER
from ledger.book import Allocation, Book
from ledger.content import content_digest
from ledger.decide import check
from ledger.errors import InvalidInput
from ledger.events import Cause, Event
from ledger.evolve import evolve
from ledger.rules.answers import Draft
from ledger.rules.batching import batch_causes, decide_batch, decide_item
from ledger.rules.tenure import renew_holder

_RELEASED_AFTER = "released after it was asked to end"


def command_of(event: Event, book: Book) -> c.AnyCommand | None:
    """The command whose direct effect an event was; None where its content is not in the record.

    ``book`` is the book before the event.
    """
    body = event.body
    if isinstance(body, e.Queued) and event.allocation != f"A{event.position}":
        # It waited already, and somebody else waits for it from here on.
        return c.Await(**_target(event, event.holder or LEDGER))
    if isinstance(body, e.Allocated | e.Reserved | e.Queued | e.Refused):
        return _request(event)
    make = _ON_ONE.get(type(body)) if event.allocation is not None else None
    if make is not None:
        assert event.allocation is not None
        before = book.allocations.get(event.allocation)
        return None if before is None else make(event, body, before)
    if isinstance(body, e.UsageRecorded):
        return _usage(event, body)
    if isinstance(body, e.Renewed):
        return _renew_holder(event, body, book)
    plain = _PLAIN.get(type(body))
    return None if plain is None else plain(event, body)


def batch_of(events: list[Event], book: Book) -> c.AllocateBatch | None:
    """The batch whose items' outcomes these are, in order; None where some are not in the record.

    ``book`` is the book before the first of them.
    """
    cause = events[0].cause
    assert cause is not None
    items = [_request(event, item=True) for event in events]
    if len(items) != cause.items or any(item is None for item in items):
        return None
    asked = tuple(item for item in items if item is not None)
    alone = c.AllocateBatch(command_id=cause.command_id, tenant=events[0].tenant, items=asked)
    together = replace(alone, atomic=True)
    return together if _is_whole(events, alone, together, book) else alone


def _is_whole(
    events: list[Event], alone: c.AllocateBatch, together: c.AllocateBatch, book: Book
) -> bool:
    """Whether a batch was atomic. Its digest says so; where metadata was redacted since, it was if its
    requests went where only together they would."""
    cause, first = events[0].cause, events[0].body
    if any(isinstance(event.body, e.Refused) for event in events):
        return isinstance(first, e.Refused) and first.verb == c.AllocateBatch.VERB
    if any(isinstance(event.body, e.Queued) for event in events):
        return any(isinstance(event.body, e.Queued) and event.body.gang for event in events)
    digest = None if cause is None else cause.digest
    if content_digest(together) == digest:
        return True
    if content_digest(alone) == digest:
        return False
    now, went = events[0].recorded_at, _where(events)
    return _where(_one_by_one(book, alone, now)) != went == _where(_at_once(book, together, now))


def _one_by_one(book: Book, command: c.AllocateBatch, now: int) -> list[Event]:
    overlay, upto = book.fork(), book.position
    events: list[Event] = []
    for item, cause in zip(command.items, batch_causes(command), strict=True):
        for event in decide_item(overlay, item, cause, now, upto=upto):
            evolve(overlay, event)
            events.append(event)
    return events


def _at_once(book: Book, command: c.AllocateBatch, now: int) -> Sequence[Event]:
    try:
        check(command)
    except InvalidInput:
        return ()
    return decide_batch(book, command, now)


def _where(events: Sequence[Event]) -> list[Any]:
    """Where the grants of a batch went."""
    return [
        [(p.node, p.devices) for p in event.body.placements]
        for event in events
        if isinstance(event.body, e.Allocated | e.Reserved) and event.cause is not None
    ]


def _base(event: Event) -> dict[str, Any]:
    assert event.cause is not None
    # What concerns the whole ledger stands under no tenant.
    return {"command_id": event.cause.command_id, "tenant": event.tenant or "default"}


def _request(event: Event, *, item: bool = False) -> c.Allocate | None:
    body, cause = event.body, event.cause
    assert isinstance(body, e.Allocated | e.Reserved | e.Queued | e.Refused) and cause is not None
    request = body.request
    if request is None or event.pool is None or event.holder is None:
        return None
    if isinstance(body, e.Refused) and not item and body.verb != c.Allocate.VERB:
        return None
    name = f"{cause.command_id}-{cause.item}" if item else cause.command_id
    return c.Allocate(
        command_id=name[-200:],
        tenant=event.tenant,
        pool=event.pool,
        holder=event.holder,
        request=request,
        task=event.task,
        metadata=event.metadata,
        asker=body.asker if isinstance(body, e.Queued) else None,
    )


# --- on one allocation ---------------------------------------------------------------------------


def _target(event: Event, who: str) -> dict[str, Any]:
    return {**_base(event), "allocation": event.allocation, "claim": c.Claim(who, operator=True)}


def _adjust(event: Event, body: e.Adjusted, before: Allocation) -> c.Adjust:
    had = before.amounts
    wanted = {r: a for r, a in body.amounts.items() if had.get(r) != a}
    wanted |= {r: 0 for r in had if r not in body.amounts}
    return c.Adjust(**_target(event, body.by), amounts=wanted or dict(body.amounts))


def _renew(event: Event, body: e.Renewed, before: Allocation) -> c.Renew:
    assert body.lease_until is not None
    ttl: int | None = body.lease_until - event.recorded_at
    if ttl == before.request.ttl_ns:
        ttl = None
    return c.Renew(**_target(event, before.holder), ttl_ns=ttl)


def _release(event: Event, body: e.Released, before: Allocation) -> c.Release:
    return c.Release(**_target(event, body.by), consumed=body.consumed)


def _transfer(event: Event, body: e.Transferred, before: Allocation) -> c.Transfer:
    assert event.holder is not None
    ttl = None
    if body.process is None and body.lease_until not in (None, before.lease_until):
        assert body.lease_until is not None
        ttl = body.lease_until - event.recorded_at
    return c.Transfer(
        **_target(event, body.by),
        to_holder=event.holder,
        to_task=event.task,
        process=body.process,
        ttl_ns=ttl,
    )


def _withdrawn(event: Event, body: e.Withdrawn, before: Allocation) -> c.AnyCommand:
    target = _target(event, body.by)
    if body.cause == "voided" and before.state == "reserved" and not body.reason:
        return c.Release(**target)
    if body.evidence:
        return c.Reclaim(**target, cause=body.cause, evidence=body.evidence, reason=body.reason)
    return c.Withdraw(**target, cause=body.cause, reason=body.reason)


def _ending(event: Event, body: e.Ending, before: Allocation) -> c.Reclaim:
    return c.Reclaim(
        **_target(event, body.by),
        cause=body.cause,
        reason=body.reason,
        process_alive=True,
        enforced=body.enforced,
        grace_ns=body.deadline - event.recorded_at,
    )


def _reclaimed(event: Event, body: e.Reclaimed, before: Allocation) -> c.AnyCommand:
    target = _target(event, body.by)
    if before.state == "ending" and body.reason == _RELEASED_AFTER:
        return c.Release(**target, consumed=body.consumed)
    return c.Reclaim(
        **target,
        cause=body.cause,
        evidence=body.evidence,
        reason=body.reason,
        enforced=body.enforced,
        happened_at=event.at if event.at != event.recorded_at else None,
    )


def _confirm(event: Event, body: e.Confirmed, before: Allocation) -> c.Confirm:
    return c.Confirm(**_target(event, before.holder))


_ON_ONE: dict[type, Callable[[Event, Any, Allocation], c.AnyCommand]] = {
    e.Adjusted: _adjust,
    e.Renewed: _renew,
    e.Released: _release,
    e.Transferred: _transfer,
    e.Withdrawn: _withdrawn,
    e.Ending: _ending,
    e.Reclaimed: _reclaimed,
    e.Confirmed: _confirm,
}


def _usage(event: Event, body: e.UsageRecorded) -> c.RecordUsage:
    assert event.allocation is not None
    return c.RecordUsage(
        **_base(event),
        allocation=event.allocation,
        since=body.since,
        until=body.until,
        used=body.used,
        peak=body.peak,
        basis=body.basis,
        samples=body.samples,
        gaps_ns=body.gaps_ns,
        final=body.final,
        exit_code=body.exit_code,
    )


def _renew_holder(event: Event, body: e.Renewed, book: Book) -> c.RenewHolder:
    """The ttl that leads to these ends: what each was asked with, or one for all of them.

    Who has reached the maximum age is passed by where the ttl goes beyond it. So the least end that may
    be the one is taken, else one beyond every age.
    """
    assert event.holder is not None
    now = event.recorded_at
    held = [book.allocations[name] for name in book.by_holder.get((event.tenant, event.holder), {})]
    ages = [a.max_age_until for a in held if a.max_age_until is not None]
    ttls: list[int | None] = [None, *sorted({end - now for end in body.ends})]
    ttls.append(max([*ages, *body.ends]) - now + 1)
    commands = [c.RenewHolder(**_base(event), holder=event.holder, ttl_ns=ttl) for ttl in ttls]
    for command in commands:
        draft = Draft(book, now)
        no = renew_holder(book, draft, command, Cause("", ""))
        if no is None and draft.events[0].body == body:
            return command
    return commands[-2]


# --- the rest, whose events say all that the command said ----------------------------------------


def _open_pool(event: Event, body: e.PoolOpened) -> c.OpenPool:
    assert event.pool is not None
    return c.OpenPool(
        **_base(event),
        pool=event.pool,
        nodes=body.nodes,
        kind=body.kind,
        consumable=body.consumable,
        policy=body.policy,
        basis=body.basis,
    )


def _quota(event: Event, body: e.QuotaSet) -> c.SetQuota:
    return c.SetQuota(
        **_base(event),
        limits=body.limits,
        holder=event.holder,
        pool=event.pool,
        cohort=body.options.get("cohort"),
    )


def _correct(event: Event, body: e.Corrected) -> c.Correct | None:
    if not event.tenant:
        # It was written when a correction did not name what it is about yet.
        return None
    return c.Correct(
        **_base(event),
        corrects=body.corrects,
        reason=body.reason,
        by=body.by,
        facts=body.facts,
        pool=event.pool,
        allocation=event.allocation,
        holder=event.holder,
        task=event.task,
    )


_PLAIN: dict[type, Callable[[Event, Any], c.AnyCommand | None]] = {
    e.LedgerOpened: lambda v, b: c.OpenLedger(**_base(v), ledger_id=b.ledger_id, epoch=b.epoch),
    e.PoolOpened: _open_pool,
    e.PoolResized: lambda v, b: c.ResizePool(**_base(v), pool=v.pool or "", nodes=b.nodes),
    e.PoolClosed: lambda v, b: c.ClosePool(**_base(v), pool=v.pool or ""),
    e.NodeJoined: lambda v, b: c.JoinNode(**_base(v), pool=v.pool or "", node=b.node),
    e.NodeLeft: lambda v, b: c.LeaveNode(**_base(v), pool=v.pool or "", node=b.node),
    e.NodeCordoned: lambda v, b: c.CordonNode(
        **_base(v), pool=v.pool or "", node=b.node, reason=b.reason
    ),
    e.NodeUncordoned: lambda v, b: c.CordonNode(
        **_base(v), pool=v.pool or "", node=b.node, cordoned=False
    ),
    e.QuotaSet: _quota,
    e.PolicySet: lambda v, b: c.SetPolicy(**_base(v), pool=v.pool or "", policy=b.policy),
    e.CapacityObserved: lambda v, b: c.ObserveCapacity(
        **_base(v), pool=v.pool or "", node=b.node, outside=b.outside, basis=b.basis
    ),
    e.AlertRaised: lambda v, b: c.RaiseAlert(
        **_base(v), alert=b.alert, message=b.message, details=b.details
    ),
    e.AlertCleared: lambda v, b: c.ClearAlert(**_base(v), alert=b.alert, by=b.by, reason=b.reason),
    e.TimeExtended: lambda v, b: c.ExtendTime(
        **_base(v), by_ns=b.by_ns, since=b.since, until=b.until, why=b.why
    ),
    e.Corrected: _correct,
    e.Redacted: lambda v, b: c.Redact(
        **_base(v),
        position=b.position,
        metadata_sha256=b.metadata_sha256,
        reason=b.reason,
        by=b.by,
    ),
    e.TaskStarted: lambda v, b: c.StartTask(**_base(v), task=v.task or "", by=b.by),
    e.TaskFinished: lambda v, b: c.FinishTask(
        **_base(v), task=v.task or "", by=b.by, outcome=b.outcome
    ),
    e.HolderSeen: lambda v, b: c.SeeHolder(
        **_base(v), holder=v.holder or "", process=b.process, program=b.program
    ),
}
