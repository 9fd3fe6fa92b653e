"""The queue: who waits for what, who is next, and what a newcomer must leave to those who wait.

Order ``fifo``: first come, first served. The first request that lacks capacity reserves the resources
it asks for; a later one passes only if it does not compete for them. A request that is blocked by
its quota blocks nobody.
"""

from __future__ import annotations

from ledger.book import Allocation, Book, Space
from ledger.events import Allocated, Reserved
from ledger.requests import Amounts, Placement
from ledger.rules.answers import Draft
from ledger.rules.leases import bounds
from ledger.rules.placement import place
from ledger.rules.quotas import over_quota


def compete(one: Amounts, other: Amounts) -> bool:
    """Whether two requests want a resource in common."""
    return not one.keys().isdisjoint(other)


def quota_blocks(book: Book, waiting: Allocation) -> bool:
    """Whether a waiting request is held up by its own quota rather than by capacity."""
    if waiting.request.parent is not None:
        return False
    return (
        over_quota(book, waiting.tenant, waiting.holder, waiting.pool, waiting.request.amounts)
        is not None
    )


def in_the_way(book: Book, space: Space, amounts: Amounts) -> Allocation | None:
    """The first waiting request that a newcomer must not overtake, or None."""
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        if compete(waiting.request.amounts, amounts) and not quota_blocks(book, waiting):
            return waiting
    return None


def ahead_of(book: Book, space: Space, allocation_id: str) -> int:
    """How many requests wait before this one."""
    return list(space.waiting).index(allocation_id)


def next_grant(book: Book, space: Space, now: int) -> Draft | None:
    """The grant to the next request in order that fits now, or None."""
    blocked: Amounts = {}
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        request = waiting.request
        if compete(request.amounts, blocked):
            continue
        if quota_blocks(book, waiting):
            continue
        pool = book.pools[waiting.pool]
        strategy = request.strategy or pool.policy.strategy
        placements = place(space.nodes.values(), request, request.amounts, strategy)
        if placements is None:
            blocked.update(request.amounts)
            if len(blocked) >= resources_of(space):
                return None
            continue
        draft = Draft(book, now)
        grant(book, draft, waiting, placements, strategy)
        return draft
    return None


def resources_of(space: Space) -> int:
    """How many different resources the first node of a space has (all of them, in most pools)."""
    return max((len(node.capacity) for node in space.nodes.values()), default=0)


def grant(
    book: Book,
    draft: Draft,
    waiting: Allocation,
    placements: tuple[Placement, ...],
    strategy: str,
) -> None:
    """Draft the grant of a waiting request."""
    request = waiting.request
    if request.reserve_ns is not None:
        until = draft.now + request.reserve_ns
        draft.on(
            waiting,
            Reserved(request, request.amounts, placements, until, waiting.requested_at, strategy),
        )
        return
    lease_until, max_age_until = bounds(request, book.pools[waiting.pool].policy, draft.now)
    draft.on(
        waiting,
        Allocated(
            request,
            request.amounts,
            placements,
            lease_until,
            max_age_until,
            waiting.requested_at,
            strategy,
        ),
    )
