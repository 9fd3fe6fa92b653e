"""Book + event → book: what each fact changes, and nothing else. Never rejects, never guesses.

:func:`advance` is what a fact does to one allocation (also used to fold an ended one from its own
events); :func:`evolve` is what it does to the whole book.
"""

from __future__ import annotations

from typing import assert_never

from ledger.book import (
    LIVE,
    REFUSAL_WINDOW_NS,
    Allocation,
    Book,
    Pool,
    Space,
    lending,
    node_from,
)
from ledger.errors import LedgerCorrupt
from ledger.events import (
    Adjusted,
    AlertCleared,
    AlertRaised,
    Allocated,
    CapacityObserved,
    Checkpointed,
    Confirmed,
    Corrected,
    Ending,
    Event,
    Expired,
    HolderSeen,
    LedgerOpened,
    NodeCordoned,
    NodeJoined,
    NodeLeft,
    NodeUncordoned,
    PolicySet,
    PoolClosed,
    PoolOpened,
    PoolResized,
    Queued,
    QuotaSet,
    Reclaimed,
    Redacted,
    Refused,
    Released,
    Renewed,
    Replenished,
    Reserved,
    Shared,
    TaskFinished,
    TaskStarted,
    TimeExtended,
    Transferred,
    UsageRecorded,
    Withdrawn,
)
from ledger.policy import Policy
from ledger.quick import replace
from ledger.requests import Amounts, Placement

HOLDERS_REMEMBERED = 10_000
REMINDERS_SPARE = 1_000
"""How many reminders of ended allocations may lie about before they are cleared away."""
GRANTS = (Allocated, Reserved)
_ENDS = (Released, Expired, Reclaimed, Withdrawn)


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
    )


def _granted(
    first: Allocation | None, event: Event, body: Allocated | Reserved
) -> Allocation:
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
    return Allocation(
        allocation_id,
        int(allocation_id[1:]) if first is None else first.position,
        state,
        event.tenant,
        event.holder if first is None else first.holder,
        event.task if first is None else first.task,
        event.pool,
        body.request,
        event.at if first is None else first.requested_at,
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
        return _granted(allocation, event, body)
    if isinstance(body, Queued):
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
    return _changed(allocation, event)


def _changed(allocation: Allocation, event: Event) -> Allocation:
    """What an event that does not end an allocation makes of it."""
    body = event.body
    if isinstance(body, Renewed):
        until = body.lease_until
        if allocation.id in body.allocations:
            until = body.ends[body.allocations.index(allocation.id)]
        return replace(allocation, lease_until=until)
    if isinstance(body, Adjusted):
        return replace(allocation, amounts=body.amounts, placements=body.placements)
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
            ttl_ns=None if bound else allocation.request.ttl_ns,
        )
        return replace(
            allocation,
            holder=event.holder,
            task=event.task,
            token=event.position,
            request=request,
            lease_until=body.lease_until,
        )
    return allocation


def _count(pool: Pool, allocation: Allocation, amounts: Amounts, sign: int) -> None:
    """Keep the totals per tenant and per holder. What is drawn on a parent counts there already."""
    if allocation.request.parent is not None:
        return
    held = pool.held
    tenant = allocation.tenant
    for key in ((tenant, None), (tenant, allocation.holder)):
        totals = held.get(key)
        if totals is None:
            totals = held[key] = {}
        for resource, amount in amounts.items():
            left = totals.get(resource, 0) + sign * amount
            if left:
                totals[resource] = left
            else:
                totals.pop(resource, None)
        if not totals:
            del held[key]


def _space(book: Book, allocation: Allocation) -> Space:
    parent = allocation.request.parent
    if parent is None:
        return book.pools[allocation.pool].space
    space = book.space_of(allocation.pool, parent)
    if space is None:
        raise LedgerCorrupt(
            f"{allocation.id} draws on {parent}, which holds nothing", position=book.position
        )
    book.lent[parent] = space
    return space


def _take(space: Space, placements: tuple[Placement, ...], position: int) -> None:
    for placement in placements:
        node = space.nodes[placement.node].plus(placement, 1)
        for resource, in_use in placement.in_use.items():
            if node.in_use[resource] != in_use:
                raise LedgerCorrupt(
                    f"event {position} says that {in_use} of {resource} are in use on"
                    f" {node.name}, its history says {node.in_use[resource]}",
                    "run `leasebook verify`; the record contradicts itself from here on",
                    position=position,
                )
        space.nodes[placement.node] = node


def _give_back(space: Space, placements: tuple[Placement, ...]) -> None:
    for placement in placements:
        space.nodes[placement.node] = space.nodes[placement.node].plus(placement, -1)
    space.freed = True


def _lend_anew(space: Space, placements: tuple[Placement, ...]) -> None:
    """An adjusted allocation lends what it has now; what draws on it keeps what it has."""
    for placement in placements:
        node = lending(placement)
        lent = space.nodes[placement.node]
        node.in_use, node.cards_in_use = lent.in_use, lent.cards_in_use
        space.nodes[placement.node] = node
    space.freed = True


def _store(book: Book, before: Allocation | None, after: Allocation) -> None:
    """Put the allocation's new state in."""
    book.allocations[after.id] = after
    if before is None or after.due != before.due or after.state != before.state:
        book.set_due(after)
    if before is None or before.holder != after.holder:
        if before is not None:
            _forget_holder(book, before)
        book.by_holder.setdefault((after.tenant, after.holder), {})[after.id] = None


def _forget_holder(book: Book, before: Allocation) -> None:
    key = (before.tenant, before.holder)
    ids = book.by_holder[key]
    del ids[before.id]
    if not ids:
        del book.by_holder[key]


def _begin_allocation(book: Book, event: Event, body: Allocated | Reserved) -> None:
    """Take what was granted at once, without a wait."""
    after = _granted(None, event, body)
    _take(_space(book, after), after.placements, event.position)
    _count(book.pools[after.pool], after, after.amounts, 1)
    _store(book, None, after)


def _end_allocation(book: Book, before: Allocation) -> None:
    """Take an allocation out of the book. Its ended state is not made here: the book keeps none."""
    if before.state in LIVE:
        _give_back(_space(book, before), before.placements)
        _count(book.pools[before.pool], before, before.amounts, -1)
    else:
        space = _space(book, before)
        space.waiting.pop(before.id, None)
        space.freed = True
    book.lent.pop(before.id, None)
    del book.allocations[before.id]
    _forget_holder(book, before)
    if len(book.due) > 2 * len(book.allocations) + REMINDERS_SPARE:
        book.renew_reminders()


def _evolve_allocation(book: Book, event: Event) -> None:
    """An event of one allocation: its state, the nodes' use, the totals, the queue."""
    allocation_id = event.allocation
    assert allocation_id is not None
    before = book.allocations.get(allocation_id)
    body = event.body
    if before is None and isinstance(body, GRANTS):
        _begin_allocation(book, event, body)
        return
    if before is not None and isinstance(body, _ENDS):
        _end_allocation(book, before)
        return
    after = advance(before, event)
    if after is None:
        raise LedgerCorrupt(
            f"event {event.position} ({event.type}) is about {allocation_id}, which holds nothing",
            "run `leasebook verify`",
            position=event.position,
        )
    pool = book.pools[after.pool]
    held_before = before is not None and before.state in LIVE
    held_after = after.state in LIVE
    if held_before != held_after or (
        held_before and before is not None and before.placements is not after.placements
    ):
        space = _space(book, after)
        if held_before and before is not None:
            _give_back(space, before.placements)
            _count(pool, before, before.amounts, -1)
        if held_after:
            _take(space, after.placements, event.position)
            _count(pool, after, after.amounts, 1)
    elif before is not None and before.holder != after.holder and held_after:
        _count(pool, before, before.amounts, -1)
        _count(pool, after, after.amounts, 1)
    if after.state == "waiting":
        _space(book, after).waiting[after.id] = None
    elif before is not None and before.state == "waiting":
        space = _space(book, after)
        space.waiting.pop(after.id, None)
        space.freed = True
    if type(event.body) is Adjusted and after.id in book.lent:
        _lend_anew(book.lent[after.id], after.placements)
    _store(book, before, after)


def _renew_many(book: Book, event: Event, body: Renewed) -> None:
    for allocation_id in body.allocations:
        before = book.allocations[allocation_id]
        after = _changed(before, event)
        book.allocations[allocation_id] = after
        book.set_due(after)


def _extend_time(book: Book, body: TimeExtended) -> None:
    """Every deadline that was still ahead when the gap began moves by the gap."""
    for allocation_id, a in book.allocations.items():
        lease = a.lease_until
        deadline = a.deadline
        if lease is not None and lease > body.since:
            lease += body.by_ns
        if deadline is not None and deadline > body.since:
            deadline += body.by_ns
        if lease != a.lease_until or deadline != a.deadline:
            cap = a.max_age_until
            book.allocations[allocation_id] = replace(
                a,
                lease_until=lease,
                deadline=deadline,
                max_age_until=None if cap is None else cap + body.by_ns,
            )
    book.renew_reminders()


def _open_pool(book: Book, event: Event, body: PoolOpened) -> None:
    assert event.pool is not None
    nodes = {spec.name: node_from(spec) for spec in body.nodes}
    policy = Policy().changed(body.policy)
    book.pools[event.pool] = Pool(
        event.pool, body.kind, body.consumable, policy, Space(event.pool, nodes), event.at
    )


def _evolve_pool(
    book: Book,
    event: Event,
    body: PoolResized | PoolClosed | NodeJoined | NodeLeft | NodeCordoned | NodeUncordoned,
) -> None:
    """What happens to an opened pool and its nodes."""
    assert event.pool is not None
    pool = book.pools[event.pool]
    nodes = pool.space.nodes
    if isinstance(body, PoolResized):
        for spec in body.nodes:
            nodes[spec.name] = nodes[spec.name].resized(spec)
    elif isinstance(body, PoolClosed):
        pool.closed = True
    elif isinstance(body, NodeJoined):
        nodes[body.node.name] = node_from(body.node)
    elif isinstance(body, NodeLeft):
        del nodes[body.node]
    else:
        nodes[body.node] = nodes[body.node].with_cordon(isinstance(body, NodeCordoned))
    pool.space.freed = True


def _set_quota(book: Book, event: Event, body: QuotaSet) -> None:
    key = (event.tenant, event.holder, event.pool)
    if body.limits:
        book.quotas[key] = body.limits
    else:
        book.quotas.pop(key, None)
    for pool in book.pools.values():
        pool.space.freed = True


def refusal_key(event: Event, body: Refused) -> tuple[object, ...]:
    """What makes two refusals the same one repeated."""
    asked = None if body.request is None else tuple(sorted(body.request.amounts.items()))
    return (
        event.tenant,
        event.holder,
        event.task,
        event.pool,
        event.allocation,
        body.verb,
        body.reason,
        asked,
    )


def _remember_refusal(book: Book, event: Event, body: Refused) -> None:
    recent = book.recent_refusals
    key = refusal_key(event, body)
    recent.pop(key, None)
    recent[key] = (event.position, event.at)
    horizon = event.at - REFUSAL_WINDOW_NS
    for old in [k for k, (_, at) in recent.items() if at <= horizon]:
        del recent[old]


def _see_holder(book: Book, event: Event, body: HolderSeen) -> None:
    assert event.holder is not None
    key = (event.tenant, event.holder)
    book.holders.pop(key, None)
    book.holders[key] = body.process
    if len(book.holders) > HOLDERS_REMEMBERED:
        del book.holders[next(iter(book.holders))]


def evolve(book: Book, event: Event) -> None:
    """Change ``book`` by one event, the one at its next position.

    Raises LedgerCorrupt where the event does not go on from the book: another position, or a
    node's use that is not what the event says.
    """
    if event.position != book.position + 1:
        raise LedgerCorrupt(
            f"event {event.position} does not follow {book.position}",
            "run `leasebook verify`",
            position=event.position,
        )
    book.position = event.position
    book.recorded_at = event.recorded_at
    body = event.body
    pool = None if event.pool is None else book.pools.get(event.pool)
    if pool is not None and pool.kind == "observed":
        if isinstance(body, PoolClosed):
            pool.closed = True
        return
    match body:
        case Allocated() | Released() | Expired() | Queued() | Reclaimed() | Withdrawn():
            _evolve_allocation(book, event)
        case UsageRecorded() | Redacted() | Corrected() | Shared():
            pass
        case Renewed():
            if event.allocation is None:
                _renew_many(book, event, body)
            else:
                _evolve_allocation(book, event)
        case Adjusted() | Transferred() | Ending() | Reserved() | Confirmed():
            _evolve_allocation(book, event)
        case Refused():
            # A count of repeats opens no new second: it stands for no refusal of its own.
            if body.repeats_of is None:
                _remember_refusal(book, event, body)
        case Checkpointed():
            book.checkpoint = event.position
        case CapacityObserved() | Replenished():
            pass
        case LedgerOpened():
            book.ledger_id, book.epoch, book.rules = body.ledger_id, body.epoch, body.rules
        case PoolOpened():
            _open_pool(book, event, body)
        case PoolResized() | PoolClosed() | NodeJoined() | NodeLeft():
            _evolve_pool(book, event, body)
        case NodeCordoned() | NodeUncordoned():
            _evolve_pool(book, event, body)
        case QuotaSet():
            _set_quota(book, event, body)
        case PolicySet():
            assert pool is not None
            pool.policy = pool.policy.changed(body.policy)
            pool.space.freed = True
        case HolderSeen():
            _see_holder(book, event, body)
        case TaskStarted():
            assert event.task is not None
            book.tasks[(event.tenant, event.task)] = event.at
        case TaskFinished():
            assert event.task is not None
            book.tasks.pop((event.tenant, event.task), None)
        case TimeExtended():
            _extend_time(book, body)
        case AlertRaised():
            book.alerts[body.alert] = {"message": body.message, "at": event.at}
        case AlertCleared():
            book.alerts.pop(body.alert, None)
        case _:
            assert_never(body)
