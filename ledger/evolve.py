"""Book + event → book: what each fact changes, and nothing else. Never rejects, never guesses.

What a fact does to one allocation is in :mod:`ledger.advance`, what that does to nodes, totals and the
queue in :mod:`ledger.accounts`.
"""

from __future__ import annotations

from typing import assert_never

from ledger.accounts import REMINDERS_SPARE, evolve_allocation, join_line, note_refused
from ledger.advance import advance
from ledger.book import REFUSAL_WINDOW_NS, Book, Pool
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
from ledger.line import Line
from ledger.nodes import node_from
from ledger.policy import Policy
from ledger.quick import replace
from ledger.requests import DEFAULT_PRIORITY
from ledger.spaces import Space

__all__ = ["advance", "evolve", "refusal_key"]

HOLDERS_REMEMBERED = 10_000


def _renew_many(book: Book, body: Renewed) -> None:
    book.touched += len(body.allocations)
    for allocation_id, until in zip(body.allocations, body.ends, strict=True):
        renewed = replace(book.allocations[allocation_id], lease_until=until)
        book.allocations[allocation_id] = renewed
        book.set_due(renewed)
    if len(book.due) > 2 * len(book.allocations) + REMINDERS_SPARE:
        book.renew_reminders()


def _extend_time(book: Book, body: TimeExtended) -> None:
    """Every deadline that was still ahead when the gap began moves by the gap."""
    book.touched += len(book.allocations)
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
    pool = Pool(event.pool, body.kind, body.consumable, policy, Space(event.pool, nodes), event.at)
    book.pools[event.pool] = pool
    book.set_refill(pool)


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
        nodes[body.node] = nodes[body.node].seen(cordoned=isinstance(body, NodeCordoned))
    pool.space.count_up()
    pool.space.freed = True


def _set_policy(book: Book, pool: Pool, body: PolicySet, at: int) -> None:
    before = pool.policy
    pool.policy = pool.policy.changed(body.policy)
    lent = [s for id_, s in book.lent.items() if book.allocations[id_].pool == pool.name]
    for space in [pool.space, *lent]:
        if (before.order, before.ageing_ns) != (pool.policy.order, pool.policy.ageing_ns):
            _line_up_anew(book, space)
        space.freed = True
    if before.probe != "none" and (before.probe, before.probe_host) != (
        pool.policy.probe,
        pool.policy.probe_host,
    ):
        # Who saw it looks no more, so that it would stand for ever.
        for node in list(pool.space.nodes.values()):
            if node.outside:
                pool.space.replace(node.seen(outside={}))
    schedule = (before.refill_every_ns, before.refill_from)
    if schedule != (pool.policy.refill_every_ns, pool.policy.refill_from):
        pool.begin_periods(at)
    book.set_refill(pool)


def _line_up_anew(book: Book, space: Space) -> None:
    waiting, space.waiting, space.line = list(space.waiting), {}, Line()
    space.kinds, space.alike = {}, {}
    for waiting_id in waiting:
        join_line(book, space, book.allocations[waiting_id])


def _refill(book: Book, pool: Pool, event: Event, body: Replenished) -> None:
    """What is available after the refill says how much of what was spent stays spent."""
    for name, node in pool.space.nodes.items():
        spent = pool.spent.get(name, {})
        left, back = {}, {}
        for resource, amount in spent.items():
            held = node.in_use.get(resource, 0) - amount
            stays = node.capacity.get(resource, 0) - held - body.available.get(resource, 0)
            back[resource] = amount - stays
            if stays:
                left[resource] = stays
        pool.spent[name] = left
        pool.space.replace(node.spending(back, -1))
    pool.refilled_at = event.at
    pool.space.freed = True
    book.set_refill(pool)


def _observe(pool: Pool, body: CapacityObserved) -> None:
    node = pool.space.nodes[body.node]
    basis = {resource: text for resource, text in body.basis.items() if resource in body.outside}
    pool.space.replace(node.seen(outside=body.outside, basis=basis))
    if pool.space.claims:
        # A claim may have to move from a node that has become too small, or can move to this one.
        pool.space.claims_checked = -1
    pool.space.freed = True


def _set_quota(book: Book, event: Event, body: QuotaSet) -> None:
    key = (event.tenant, event.holder, event.pool)
    cohort = body.options.get("cohort")
    if event.holder is None:
        book.cohorts.pop((event.tenant, event.pool), None)
    if body.limits:
        book.quotas[key] = body.limits
        if cohort is not None and event.holder is None:
            book.cohorts[event.tenant, event.pool] = cohort
    else:
        book.quotas.pop(key, None)
    for pool in book.pools.values():
        pool.space.freed = True


def refusal_key(event: Event, body: Refused) -> tuple[object, ...]:
    """What makes two refusals the same one repeated."""
    request = body.request
    asked: tuple[object, ...] = ()
    further: tuple[object, ...] = ()
    if request is not None:
        asked = tuple(sorted(request.amounts.items()))
        most = () if request.most is None else tuple(sorted(request.most.items()))
        priority = "" if request.priority == DEFAULT_PRIORITY else request.priority
        further = (most, len(request.select or ()), request.spread, request.parent, priority)
    if request is None or further != ((), 0, None, None, ""):
        # Where more than amounts was asked for, or it was asked of an allocation, what was missing and
        # the words of the answer count too: in them labels show.
        short = sorted((node, *sorted(s.items())) for node, s in body.shortfall.items())
        whole = () if request is None else (("", asked, further),)
        asked = (body.message, *whole, *short)
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
    # They stand in order of time: the first that is young enough ends the look.
    while recent and next(iter(recent.values()))[1] <= horizon:
        del recent[next(iter(recent))]


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
    if pool is not None and pool.kind == "observed" and event.allocation is not None:
        # What happens elsewhere is recorded; only what is managed here is kept account of.
        return
    match body:
        # The most frequent come first: each class is asked for in turn.
        case Allocated() | Released():
            evolve_allocation(book, event)
        case Renewed():
            if event.allocation is None:
                _renew_many(book, body)
            else:
                evolve_allocation(book, event)
        case Expired() | Queued() | Reclaimed() | Withdrawn():
            evolve_allocation(book, event)
        case Adjusted() | Transferred() | Ending() | Reserved() | Confirmed():
            evolve_allocation(book, event)
        case Refused():
            # A count of repeats opens no new second: it stands for no refusal of its own.
            if body.repeats_of is None:
                _remember_refusal(book, event, body)
            note_refused(book, event, body)
        case UsageRecorded() | Redacted() | Corrected() | Shared():
            pass
        case Checkpointed():
            book.checkpoint = event.position
            book.touched = 0
        case CapacityObserved():
            assert pool is not None
            _observe(pool, body)
        case Replenished():
            assert pool is not None
            _refill(book, pool, event, body)
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
            _set_policy(book, pool, body, event.at)
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
