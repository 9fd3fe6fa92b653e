"""The queue: who is next, what a newcomer must leave to those who wait, and when a wait is bounded.

Two orders. ``fifo``: strictly first come, first served; whoever is first and lacks capacity holds up
all behind that want a resource in common. ``fair``: by rank, share and arrival (:mod:`ledger.line`);
who fits may pass who does not, but a request that was overtaken ``overtakes_max`` times or has waited
``claim_after_ns`` claims a node: from then on nothing that competes with it lands there, so it waits
for no more than what is held there now. A request blocked by its quota blocks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ledger.book import Allocation, Book, Pool
from ledger.requests import Amounts
from ledger.rules import elastic, gangs, preemption
from ledger.rules.answers import Draft
from ledger.rules.claims import barred_for, compete, next_claim, quota_blocks
from ledger.rules.granting import grant, wish_of
from ledger.rules.placement import place
from ledger.spaces import Space


def in_the_way(book: Book, space: Space, amounts: Amounts, policy_order: str) -> Allocation | None:
    """In strict order, the first waiting request that a newcomer must not overtake, or None."""
    if policy_order != "fifo":
        return None
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        if compete(waiting.request.amounts, amounts) and not quota_blocks(book, waiting):
            return waiting
    return None


def in_order(book: Book, space: Space, pool: Pool) -> Iterator[Allocation]:
    """Those who wait, in the order in which they are served, as many as one pass looks at."""
    ids = space.line.candidates(pool.share, pool.holding)
    for waiting_id in islice(ids, pool.policy.backfill_depth):
        waiting = book.allocations[waiting_id]
        # A gang is one place: its first member stands for all.
        if waiting.gang is None or waiting.gang == waiting_id:
            yield waiting


def next_move(book: Book, space: Space, now: int) -> Draft | None:
    """The next thing that happens among those who wait: a claim, a grant, or room being made.

    The caller evolves its events and asks again, until there is nothing more to do.
    """
    if space.waiting:
        claimed = next_claim(book, space, now)
        if claimed is not None:
            return claimed
        served = _serve(book, space, now)
        if served is not None:
            return served
    return elastic.next_growth(book, space, now)


def _serve(book: Book, space: Space, now: int) -> Draft | None:
    pool = book.pools[book.allocations[next(iter(space.waiting))].pool]
    strict = pool.policy.order == "fifo"
    blocked: Amounts = {}
    failed: set[tuple[object, ...]] = set()
    for waiting in in_order(book, space, pool):
        asked = waiting.request.amounts
        if strict and compete(asked, blocked):
            continue
        shape = space.shapes[waiting.id]
        if shape in failed and waiting.claim is None:
            continue
        if quota_blocks(book, waiting):
            continue
        draft = _grant_or_make_room(book, space, pool, waiting, now)
        if draft is not None:
            return draft
        if waiting.claim is None:
            failed.add(shape)
        if strict:
            blocked.update(asked)
    return None


def _grant_or_make_room(
    book: Book, space: Space, pool: Pool, waiting: Allocation, now: int
) -> Draft | None:
    if waiting.gang is not None:
        barred = barred_for(book, space, gangs.total(book, waiting), waiting.id)
        return gangs.grant(book, space, pool, waiting, barred, now)
    barred = barred_for(book, space, waiting.request.amounts, waiting.id)
    wish = wish_of(pool, waiting, barred)
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
