"""Leases: how long an allocation is good for, renewing it, and what time alone has ended."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop

from ledger.advance import LEDGER
from ledger.book import Allocation, Book, Pool
from ledger.errors import Reason
from ledger.events import Expired, Reclaimed, Withdrawn
from ledger.policy import Policy
from ledger.requests import Request
from ledger.rules.answers import Draft, No
from ledger.rules.budgets import refill


def bounds(request: Request, policy: Policy, now: int) -> tuple[int | None, int | None]:
    """(lease_until, max_age_until) of a grant at ``now``.

    A process-bound allocation has no lease end: a holder provably alive is never reclaimed for age.
    """
    if request.ttl_ns is None:
        return None, None
    limits = [age for age in (request.max_age_ns, policy.max_age_ns) if age is not None]
    max_age_until = now + min(limits) if limits else None
    lease_until = now + request.ttl_ns
    return (
        lease_until if max_age_until is None else min(lease_until, max_age_until)
    ), max_age_until


def first_bound(book: Book, allocation: Allocation) -> int | None:
    """The maximum age of what was bound to a process until now and gets a ttl, from its grant on."""
    policy = book.pools[allocation.pool].policy
    limits = [a for a in (allocation.request.max_age_ns, policy.max_age_ns) if a is not None]
    if not limits:
        return None
    return (allocation.granted_at or allocation.requested_at) + min(limits)


def renewed_until(allocation: Allocation, ttl_ns: int | None, now: int) -> int | No:
    """The new end of a lease. Renewing never shortens it, and never goes beyond its maximum age."""
    if allocation.lease_until is None:
        return No(
            Reason.INVALID,
            f"{allocation.id} is bound to a process, not to a ttl, and needs no renewing",
        )
    until = max(allocation.lease_until, now + (ttl_ns or allocation.request.ttl_ns or 0))
    cap = allocation.max_age_until
    if cap is not None and until > cap:
        if allocation.lease_until >= cap:
            return No(
                Reason.MAX_AGE_REACHED,
                f"{allocation.id} has reached its maximum age and ends with its present lease",
                "release it and allocate anew",
            )
        until = cap
    return until


def descendants(book: Book, allocation_id: str, ended: Collection[str] = ()) -> list[Allocation]:
    """Everything that draws on an allocation, the innermost first.

    Of the allocations that draw on the same one, the earlier come first, each after all that draws
    on it. How deep they draw on one another is not limited, so nothing here calls itself. Neither
    what has ``ended`` nor what draws on it is looked at.
    """
    found: list[Allocation] = []
    look = _children(book, allocation_id)
    while look:
        # Each before what draws on it, and of the same one the latest first: the order from its end.
        each = look.pop()
        if each.id not in ended:
            found.append(each)
            look += _children(book, each.id)
    found.reverse()
    return found


def _children(book: Book, allocation_id: str) -> list[Allocation]:
    """What draws on an allocation itself, the earliest first."""
    space = book.lent.get(allocation_id)
    if space is None:
        return []
    ids = {each for there in space.standing.values() for each in there} | space.waiting.keys()
    children = [book.allocations[each] for each in ids if each in book.allocations]
    return sorted(children, key=lambda each: each.position)


def stands_since(allocation: Allocation, now: int) -> int:
    """The instant before which what is waited for, reserved or held cannot have ended.

    A reservation stands since it was made, after its wait; the book knows when its span is over.
    """
    if allocation.granted_at is not None:
        return allocation.granted_at
    if allocation.state != "reserved":
        return allocation.requested_at
    assert allocation.deadline is not None and allocation.request.reserve_ns is not None
    return min(now, allocation.deadline - allocation.request.reserve_ns)


def end_descendants(
    book: Book, draft: Draft, allocation: Allocation, at: int, ended: Collection[str] = ()
) -> list[str]:
    """What draws on an allocation ends with it, before it; the ids, but for what has ``ended``.

    What draws on something that has ended must have ended as well.
    """
    family = descendants(book, allocation.id, ended)
    for child in family:
        reason = f"{allocation.id}, which it drew on, ended"
        # A crash that is seen late may lie before what was still granted: nothing ends before it began.
        then = max(at, stands_since(child, draft.now))
        if child.state in ("waiting", "reserved"):
            draft.on(child, Withdrawn("withdrawn", LEDGER, reason), at=then)
        else:
            evidence = {"parent": allocation.id, "parent_ended_at": at}
            draft.on(child, Reclaimed("leaked", evidence, LEDGER, reason), at=then)
    return [child.id for child in family]


def next_due(book: Book) -> int | None:
    """The earliest instant at which time will end something, or None.

    Drops what is out of date from the book's heap of reminders, which is a cache of the
    allocations' own times.
    """
    heap = book.due
    while heap:
        when, position, name = heap[0]
        if position == 0:
            pool = book.pools.get(name)
            if pool is not None and pool.next_refill == when:
                return when
        else:
            allocation = book.allocations.get(name)
            if allocation is not None and allocation.due == when:
                return when
        heappop(heap)
    return None


def _late(book: Book, now: int) -> list[tuple[int, int, str]]:
    """The reminders that are due by ``now``, in order; each stands in the heap above those after it."""
    heap = book.due
    found = []
    look = [0]
    while look:
        index = look.pop()
        if index < len(heap) and heap[index][0] <= now:
            found.append(heap[index])
            look += (2 * index + 1, 2 * index + 2)
    return sorted(set(found))


def _is_so(book: Book, reminder: tuple[int, int, str]) -> bool:
    """Whether a reminder is still right."""
    when, position, name = reminder
    if position == 0:
        pool = book.pools.get(name)
        return pool is not None and pool.next_refill == when
    allocation = book.allocations.get(name)
    return allocation is not None and allocation.due == when


def write_due(book: Book, draft: Draft, limit: int) -> None:
    """Draft the events for what time has ended or refilled by now, in order of when it did.

    At most ``limit`` allocations (and what draws on them): a caller goes on until nothing is due.
    A budget's refill counts what had ended before it and not what ended after it, so the draft stops
    where it would have to know what it has itself drafted.
    """
    ended: set[str] = set()
    touched: dict[str, int] = {}
    late = [each for each in _late(book, draft.now) if _is_so(book, each)]
    for number, (when, position, name) in enumerate(late):
        if position == 0:
            pool = book.pools[name]
            if name in touched:
                return
            touched[name] = refill(draft, pool, _first_end(book, pool, late[number:], draft.now))
            continue
        if name in ended:
            continue
        allocation = book.allocations[name]
        spends = book.pools[allocation.pool].consumable and allocation.state != "waiting"
        if spends and when >= touched.setdefault(allocation.pool, draft.now + 1):
            return
        ended.update([name, *end_descendants(book, draft, allocation, when, ended)])
        _end_by_time(draft, allocation, when)
        if len(ended) >= limit:
            return


def _first_end(book: Book, pool: Pool, late: list[tuple[int, int, str]], now: int) -> int:
    """When the first of these that holds something of a pool ends, at the latest now."""
    for when, position, name in late:
        a = book.allocations.get(name) if position else None
        if a is not None and a.pool == pool.name and a.state != "waiting":
            return when
    return now


def _end_by_time(draft: Draft, allocation: Allocation, when: int) -> None:
    if allocation.state == "active":
        why = "max_age" if when == allocation.max_age_until else "ttl"
        draft.on(allocation, Expired(when, why), at=when)
    elif allocation.state == "ending":
        evidence = {"grace_until": when}
        cause = allocation.ending_cause or "forced"
        body = Reclaimed(cause, evidence, LEDGER, "its grace is over", False)
        draft.on(allocation, body, at=when)
    else:
        draft.on(allocation, Withdrawn("timed_out", LEDGER), at=when)
