"""Leases: how long an allocation is good for, renewing it, and what time alone has ended."""

from __future__ import annotations

from heapq import heappop, nsmallest

from ledger.advance import LEDGER
from ledger.book import Allocation, Book
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


def descendants(book: Book, allocation_id: str) -> list[Allocation]:
    """Everything that draws on an allocation, the innermost first."""
    space = book.lent.get(allocation_id)
    if space is None:
        return []
    ids = {each for there in space.standing.values() for each in there} | space.waiting.keys()
    children = [book.allocations[each] for each in ids if each in book.allocations]
    found: list[Allocation] = []
    for child in sorted(children, key=lambda each: each.position):
        found += [*descendants(book, child.id), child]
    return found


def end_descendants(book: Book, draft: Draft, allocation: Allocation, at: int) -> None:
    """What draws on an allocation ends with it, before it."""
    for child in descendants(book, allocation.id):
        reason = f"{allocation.id}, which it drew on, ended"
        if child.state in ("waiting", "reserved"):
            draft.on(child, Withdrawn("withdrawn", LEDGER, reason), at=at)
        else:
            evidence = {"parent": allocation.id, "parent_ended_at": at}
            draft.on(child, Reclaimed("leaked", evidence, LEDGER, reason), at=at)


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


def write_due(book: Book, draft: Draft, limit: int) -> None:
    """Draft the events for what time has ended or refilled by now, in order of when it did.

    At most ``limit`` allocations (and what draws on them): a caller goes on until nothing is due.
    """
    ended: set[str] = set()
    late = nsmallest(2 * limit, (entry for entry in book.due if entry[0] <= draft.now))
    refilled: set[str] = set()
    for when, position, allocation_id in late:
        if position == 0:
            pool = book.pools.get(allocation_id)
            if pool is not None and pool.next_refill == when and pool.name not in refilled:
                refilled.add(pool.name)
                refill(draft, pool)
            continue
        allocation = book.allocations.get(allocation_id)
        if allocation is None or allocation.due != when or allocation_id in ended:
            continue
        family = descendants(book, allocation_id)
        if ended & {child.id for child in family}:
            continue
        end_descendants(book, draft, allocation, when)
        ended.update([allocation_id, *(child.id for child in family)])
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
        if len(ended) >= limit:
            return
