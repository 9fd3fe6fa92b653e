"""Granting: how a waiting request is placed, and the fact of its grant."""

from __future__ import annotations

from collections.abc import Collection

from ledger.book import Allocation, Book, Pool
from ledger.events import Allocated, Reserved
from ledger.requests import Amounts, Placement
from ledger.rules.answers import Draft
from ledger.rules.leases import bounds
from ledger.rules.placement import Wish, seed_of, strategy_for


def wish_of(
    pool: Pool, allocation: Allocation, barred: Collection[str], kept: tuple[str, ...] = ()
) -> Wish:
    """How a waiting request is placed: as its command said, by its policy, on nodes free to it.

    ``kept`` are nodes that are kept for it through another of its gang.
    """
    request = allocation.request
    seed = seed_of(allocation.command or allocation.id)
    prefer = allocation.claims or kept
    if request.sticky is not None:
        # Where its key was before comes first, if it is free: that is what the key is for.
        prefer = (*pool.sticky.get((allocation.tenant, request.sticky), ()), *prefer)
    return Wish(request, strategy_for(request, pool.policy, seed), seed, barred, prefer)


def grant(
    book: Book,
    draft: Draft,
    waiting: Allocation,
    placements: tuple[Placement, ...],
    strategy: str,
) -> None:
    """Draft the grant of a waiting request."""
    request = waiting.request
    amounts = total_of(placements)
    since = waiting.requested_at
    if request.reserve_ns is not None:
        until = draft.now + request.reserve_ns
        reserved = Reserved(request, amounts, placements, until, since, strategy, waiting.gang)
        draft.on(waiting, reserved)
        return
    lease_until, max_age_until = bounds(request, book.pools[waiting.pool].policy, draft.now)
    granted = Allocated(
        request, amounts, placements, lease_until, max_age_until, since, strategy, waiting.gang
    )
    draft.on(waiting, granted)


def total_of(placements: tuple[Placement, ...]) -> Amounts:
    """What placements come to together."""
    if len(placements) == 1:
        return placements[0].amounts
    total: Amounts = {}
    for placement in placements:
        for resource, amount in placement.amounts.items():
            total[resource] = total.get(resource, 0) + amount
    return total
