"""The queue: who is next, what a newcomer must leave to those who wait, and when a wait is bounded.

Two orders. ``fifo``: strictly first come, first served; whoever is first and lacks capacity holds up
all behind that want a resource in common. ``fair``: by rank, share and arrival (:mod:`ledger.line`);
who fits may pass who does not, but a request that was overtaken ``overtakes_max`` times or has waited
``claim_after_ns`` claims a node: from then on nothing that competes with it lands there, so it waits
for no more than what is held there now. A request blocked by its quota blocks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger.book import Allocation, Book, Pool
from ledger.requests import Amounts, Placement
from ledger.rules import clearing, elastic, gangs, preemption
from ledger.rules.answers import Draft
from ledger.rules.capacity import place_on
from ledger.rules.claims import (
    barred_for,
    claim_before,
    compete,
    next_claim,
    next_late_claim,
)
from ledger.rules.granting import grant, wish_of
from ledger.rules.packing import STEPS_NOW
from ledger.rules.placement import on_node, place
from ledger.rules.quotas import quota_blocks
from ledger.spaces import Space

SEARCHES_MAX = 4
"""For how many without a claim one pass searches for room beyond trying two orders."""


def in_the_way(book: Book, space: Space, amounts: Amounts, policy_order: str) -> Allocation | None:
    """In strict order, the first waiting request that a newcomer must not overtake, or None."""
    if policy_order != "fifo":
        return None
    if all(amounts.keys().isdisjoint(kind) for kind in space.kinds):
        return None
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        if compete(waiting.request.amounts, amounts) and not quota_blocks(book, waiting):
            return waiting
    return None


def _unblocked(book: Book, space: Space, ids: Iterable[str]) -> Iterator[Allocation]:
    """Those that no quota of their own holds up. A gang is one place: its first member stands for it."""
    blocked: dict[tuple[object, ...], bool] = {}
    for waiting_id in ids:
        waiting = book.allocations[waiting_id]
        if waiting.gang is not None and waiting.gang != waiting_id:
            continue
        if book.quotas:
            key = (waiting.tenant, waiting.holder, space.shapes[waiting_id])
            if key not in blocked:
                blocked[key] = quota_blocks(book, waiting)
            if blocked[key]:
                continue
        yield waiting


def next_move(book: Book, space: Space, now: int) -> Draft | None:
    """The next thing that happens among those who wait: a claim, a grant, or room being made.

    The caller evolves its events and asks again, until there is nothing more to do.
    """
    if space.parent is not None:
        lender = book.allocations.get(space.parent)
        if lender is None or lender.state != "active":
            # What is asked to end lends nothing more.
            return None
    if space.waiting:
        claimed = next_claim(book, space, now)
        if claimed is not None:
            return claimed
        pool = book.pools[book.allocations[next(iter(space.waiting))].pool]
        served = _serve(book, space, pool, now)
        if served is not None:
            return served
        claimed = next_late_claim(book, space, now)
        if claimed is not None:
            return claimed
    return elastic.next_growth(book, space, now)


def _serve(book: Book, space: Space, pool: Pool, now: int) -> Draft | None:
    line = _unblocked(book, space, space.line.candidates(pool.share, pool.holding))
    if pool.policy.order == "fifo":
        return _serve_strictly(book, space, pool, line, now)
    return _serve_fairly(book, space, pool, line, now)


def _serve_strictly(
    book: Book, space: Space, pool: Pool, line: Iterator[Allocation], now: int
) -> Draft | None:
    blocked: Amounts = {}
    for waiting in line:
        asked = gangs.total(book, waiting)
        if not compete(asked, blocked):
            draft = _grant_or_make_room(book, space, pool, waiting, now, STEPS_NOW)
            if draft is not None:
                return draft
        blocked.update(asked)
        if not any(blocked.keys().isdisjoint(kind) for kind in space.kinds):
            return None
    return None


def _serve_fairly(
    book: Book, space: Space, pool: Pool, line: Iterator[Allocation], now: int
) -> Draft | None:
    """The first in order that fits. What does not fit for one does not fit for another of its shape.

    Tries as many as the policy says, and whoever has a claim in any case: else those who stand far
    behind could be passed over for longer than their bound.
    """
    may_preempt = pool.policy.preemption != "never" or bool(book.cohorts)
    failed: set[tuple[object, ...]] = set()
    tried: set[str] = set()
    searched = 0
    # Where nobody gives way, who has a claim has one place more than others of its shape: its node.
    only_claims = not may_preempt and not space.elastic
    for waiting in line:
        shape = space.shapes[waiting.id]
        if may_preempt:
            # Whom it may send away depends on who asks.
            shape = (*shape, waiting.request.priority, waiting.tenant)
        if shape in failed and (not waiting.claims or _has_no_room(space, waiting, only_claims)):
            continue
        steps = STEPS_NOW if searched < SEARCHES_MAX else 0
        searched += gangs.is_several(waiting)
        draft = _grant_or_make_room(book, space, pool, waiting, now, steps)
        if draft is not None:
            return claim_before(book, space, waiting, now) or draft
        tried.add(waiting.id)
        if only_claims or not waiting.claims:
            failed.add(shape)
        nothing_else = not may_preempt and len(failed) >= len(space.alike)
        if nothing_else or len(tried) >= pool.policy.backfill_depth:
            break
    claimants = sorted(
        set(space.claims.values()) - tried,
        key=lambda each: space.line.place(each, pool.share, pool.holding),
    )
    for waiting in _unblocked(book, space, claimants):
        if space.shapes[waiting.id] in failed and _has_no_room(space, waiting, only_claims):
            continue
        draft = _grant_or_make_room(book, space, pool, waiting, now, 0)
        if draft is not None:
            return claim_before(book, space, waiting, now) or draft
    return None


def _has_no_room(space: Space, waiting: Allocation, only_claims: bool) -> bool:
    """Whether one with a claim, of a shape that fits nowhere else, does not fit on its node either."""
    if not only_claims or gangs.is_several(waiting):
        return False
    node = space.nodes.get(waiting.claims[0])
    return node is None or place_on(node, waiting.request.amounts) is None


def _grant_or_make_room(
    book: Book, space: Space, pool: Pool, waiting: Allocation, now: int, steps: int
) -> Draft | None:
    if gangs.is_several(waiting):
        barred = barred_for(book, space, gangs.wants(book, space, waiting), waiting)
        if len(barred) >= len(space.nodes):
            return None
        found = gangs.room_for(book, space, pool, waiting, barred, steps)
        if found is not None:
            return gangs.grant(book, space, pool, waiting, found, Draft(book, now))
        return clearing.make_room(book, space, pool, waiting, barred, now) if steps else None
    barred = barred_for(book, space, waiting.request.amounts, waiting)
    if len(barred) >= len(space.nodes):
        # Every node is kept for others: no look at them is needed.
        return None
    wish = wish_of(pool, waiting, barred)
    own = waiting.claims[0] if waiting.claims else None
    if own is not None and own in space.nodes and len(barred) == len(space.nodes) - 1:
        # Its own node is all that is left to it.
        placements: tuple[Placement, ...] | None
        placed = on_node(space, own, wish, waiting.request.amounts)
        placements = None if placed is None else (placed,)
    else:
        placements = place(space, pool.mix, wish)
    draft = Draft(book, now)
    if placements is not None:
        grant(
            book, draft, waiting, elastic.stretch(book, space, waiting, placements), wish.strategy
        )
        return draft
    shrunk = elastic.make_room(book, space, draft, wish)
    if shrunk is not None:
        grant(book, draft, waiting, (shrunk,), wish.strategy)
        return draft
    return preemption.make_room(book, space, pool, waiting, barred, now)
