"""Estimates: when a request that waits may fit, from leases and from how long such tasks hold."""

from __future__ import annotations

from ledger.book import Allocation, Book, Pool
from ledger.nodes import Node
from ledger.requests import Request
from ledger.rules.capacity import place_on
from ledger.spaces import Space

HABIT_LEAST = 3
"""How often a task must have been held before its habit counts."""


def expected_end(pool: Pool, allocation: Allocation, now: int) -> tuple[int, str] | None:
    """(when it will probably end, on what basis), or None where nothing tells.

    A habit counts where there is one and the holder has not outlived it, else the lease's end.
    """
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
    ends: list[tuple[int, str, Allocation]] = []
    for each in space.standing.get(node.name, ()):
        a = book.allocations.get(each)
        end = None if a is None else expected_end(pool, a, now)
        if a is not None and end is not None:
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
