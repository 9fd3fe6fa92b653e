"""Estimates: when a request that waits may fit, from leases and from how long such tasks hold."""

from __future__ import annotations

from ledger.book import Allocation, Book, Pool
from ledger.nodes import Node
from ledger.requests import Amounts, Request
from ledger.rules.capacity import place_on
from ledger.spaces import Space

HABIT_LEAST = 3
"""How often a task must have been held before its habit counts."""


def expected_end(pool: Pool, allocation: Allocation, now: int) -> tuple[int, str] | None:
    """(when it will probably end, on what basis), or None where nothing tells.

    Who was asked to go has its grace. Else a habit counts where there is one and the holder has not
    outlived it, or the lease's end.
    """
    if allocation.state == "ending":
        due = allocation.due
        return None if due is None else (due, "when those who were asked to go have to be gone")
    count, total = pool.habits.get(allocation.task or "", (0, 0))
    if count >= HABIT_LEAST and allocation.granted_at is not None:
        usual = allocation.granted_at + total // count
        lease = allocation.lease_until
        if usual > now and (lease is None or usual < lease):
            return usual, "how long such tasks usually hold"
    if allocation.lease_until is not None:
        return allocation.lease_until, "the ends of leases"
    return None


def eta(book: Book, space: Space, node: Node, request: Request, now: int) -> tuple[int, str] | None:
    """(nanoseconds from now, basis) until a request fits on a node if nobody else takes it, or None."""
    pool = book.pools[space.key if space.parent is None else book.allocations[space.parent].pool]
    if pool.consumable and space.parent is None:
        return _refilled(pool, node, request.amounts, now)
    ends: list[tuple[int, str, Allocation]] = []
    for each in space.standing.get(node.name, ()):
        a = book.allocations.get(each)
        if a is None or a.amounts.keys().isdisjoint(request.amounts):
            continue
        end = expected_end(pool, a, now)
        if end is not None:
            ends.append((end[0], end[1], a))
    bases: set[str] = set()
    for when, basis, a in sorted(ends, key=lambda each: (each[0], each[2].position)):
        bases.add(basis)
        for placement in a.placements:
            if placement.node == node.name:
                node = node.plus(placement, -1)
        if place_on(node, request.amounts) is not None:
            return max(0, when - now), " and ".join(sorted(bases))
    return None


def _refilled(pool: Pool, node: Node, amounts: Amounts, now: int) -> tuple[int, str] | None:
    """The same of a budget: what ends there is spent, and comes back when it is refilled."""
    due, policy = pool.next_refill, pool.policy
    if due is None or policy.refill_every_ns is None:
        return None
    spent = pool.spent.get(node.name, {})
    periods = 1
    for resource, amount in amounts.items():
        gone, capacity = spent.get(resource, 0), node.capacity.get(resource, 0)
        # What may stay spent for the amount to fit beside what is reserved.
        may_stay = capacity - amount - (node.in_use.get(resource, 0) - gone)
        each = capacity
        if policy.refill == "add":
            each = (policy.refill_amounts or {}).get(resource, 0)
        if may_stay < 0 or (gone > may_stay and not each):
            return None
        if gone > may_stay:
            periods = max(periods, -(-(gone - may_stay) // each))
    return max(0, due + (periods - 1) * policy.refill_every_ns - now), "when it is refilled"
