"""What a fact does to one allocation: the step that a fold of its own events repeats.

The whole book's step is :func:`ledger.evolve.evolve`, which calls this one.
"""

from __future__ import annotations

from ledger.book import Allocation
from ledger.events import (
    Adjusted,
    Allocated,
    Confirmed,
    Ending,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Released,
    Renewed,
    Reserved,
    Transferred,
    Withdrawn,
)
from ledger.quick import maker, replace

LEDGER = "ledger"
"""Who an event is by when the ledger itself caused it."""
GRANTS = (Allocated, Reserved)
ENDS = (Released, Expired, Reclaimed, Withdrawn)

ASKED_FOR_CAUSE = frozenset({Queued.TYPE, Adjusted.TYPE})
"""Types of which a cause matters to an allocation: :func:`_command` and :func:`changed` look at it."""

_allocation = maker(Allocation)


def _queued(event: Event, body: Queued) -> Allocation:
    """The allocation as a place in the queue makes it."""
    assert event.allocation is not None and event.pool is not None and event.holder is not None
    return Allocation(
        event.allocation,
        int(event.allocation[1:]),
        "waiting",
        event.tenant,
        event.holder,
        event.task,
        event.pool,
        body.request,
        event.at,
        body.request.amounts,
        deadline=body.until,
        gang=body.gang,
        command=_command(event),
        asker=body.asker,
    )


def _command(event: Event) -> str | None:
    """What a randomised choice about this request is seeded with: its command's id and item."""
    cause = event.cause
    if cause is None:
        return None
    return cause.command_id if cause.item is None else f"{cause.command_id}#{cause.item}"


def _asked_at(event: Event, body: Allocated | Reserved) -> int:
    """When a grant without a place in the queue was asked for: what is imported may have waited."""
    return event.at if body.queued_at is None else body.queued_at


def granted(first: Allocation | None, event: Event, body: Allocated | Reserved) -> Allocation:
    """The allocation as a grant makes it. Written out: this is the hottest path of a fold."""
    allocation_id = event.allocation
    assert allocation_id is not None and event.pool is not None and event.holder is not None
    lease_until = max_age_until = until = granted_at = None
    if type(body) is Allocated:
        state, granted_at = "active", event.at
        lease_until, max_age_until = body.lease_until, body.max_age_until
    else:
        assert isinstance(body, Reserved)
        state, until = "reserved", body.until
    return _allocation(
        allocation_id,
        int(allocation_id[1:]) if first is None else first.position,
        state,
        event.tenant,
        event.holder if first is None else first.holder,
        event.task if first is None else first.task,
        event.pool,
        body.request,
        _asked_at(event, body) if first is None else first.requested_at,
        body.amounts,
        body.placements,
        event.position,
        granted_at,
        lease_until,
        max_age_until,
        until,
        body.strategy,
        body.gang,
    )


def _ended(allocation: Allocation, event: Event, cause: str, enforced: bool = True) -> Allocation:
    return replace(
        allocation,
        state="ended",
        ended_at=event.at,
        ended_by=cause,
        enforced=allocation.enforced and enforced,
        deadline=None,
    )


def advance(allocation: Allocation | None, event: Event) -> Allocation | None:
    """What an event makes of one allocation (None where there is none yet).

    Events that do not concern an allocation's state leave it as it is.
    """
    body = event.body
    if isinstance(body, GRANTS):
        return granted(allocation, event, body)
    if isinstance(body, Queued):
        if allocation is not None:
            # It waits on, and the nodes that are named are kept for it from here on.
            return replace(allocation, claims=tuple(sorted(body.shortfall)), asker=body.asker)
        return _queued(event, body)
    if allocation is None:
        return None
    if isinstance(body, Released):
        return _ended(allocation, event, "released")
    if isinstance(body, Expired):
        return _ended(allocation, event, "expired")
    if isinstance(body, Reclaimed):
        return _ended(allocation, event, body.cause, body.enforced)
    if isinstance(body, Withdrawn):
        return _ended(allocation, event, body.cause)
    return changed(allocation, event)


def _until(body: Transferred, event: Event) -> int | None:
    return None if body.lease_until is None else body.lease_until - event.at


def changed(allocation: Allocation, event: Event) -> Allocation:
    """What an event that does not end an allocation makes of it."""
    body = event.body
    if isinstance(body, Renewed):
        until = body.lease_until
        if allocation.id in body.allocations:
            until = body.ends[body.allocations.index(allocation.id)]
        return replace(allocation, lease_until=until)
    if isinstance(body, Adjusted):
        request = allocation.request
        if request.most is not None and (body.by != LEDGER or event.cause is not None):
            # Whoever sets the size by hand has chosen it: the ledger stretches it no more.
            request = replace(request, amounts=body.amounts, most=None)
        return replace(
            allocation, request=request, amounts=body.amounts, placements=body.placements
        )
    if isinstance(body, Confirmed):
        return replace(
            allocation,
            state="active",
            granted_at=event.at,
            lease_until=body.lease_until,
            max_age_until=body.max_age_until,
            deadline=None,
        )
    if isinstance(body, Ending):
        return replace(
            allocation,
            state="ending",
            deadline=body.deadline,
            ending_cause=body.cause,
            enforced=body.enforced,
        )
    if isinstance(body, Transferred):
        assert event.holder is not None
        bound = body.process is not None
        request = replace(
            allocation.request,
            process=body.process,
            # What was bound to a process has no ttl of its own: renewals go by the one it got now.
            ttl_ns=None if bound else allocation.request.ttl_ns or _until(body, event),
        )
        return replace(
            allocation,
            holder=event.holder,
            task=event.task,
            token=event.position,
            request=request,
            lease_until=body.lease_until,
            max_age_until=(
                allocation.max_age_until if body.max_age_until is None else body.max_age_until
            ),
        )
    return allocation
