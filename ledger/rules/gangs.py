"""Gangs: the requests of an atomic batch that waits. They are one place in the queue, all or none."""

from __future__ import annotations

from ledger.book import Allocation, Book, Pool
from ledger.requests import Amounts
from ledger.rules.answers import Draft
from ledger.rules.granting import grant as grant_one
from ledger.rules.granting import wish_of
from ledger.rules.placement import Wish, place, strategy_for
from ledger.spaces import Space


def members(book: Book, space: Space, gang: str) -> list[Allocation]:
    """All that wait as one place, by arrival."""
    return [book.allocations[each] for each in space.gangs.get(gang, {})]


def total(book: Book, waiting: Allocation) -> Amounts:
    """What a gang asks for in all."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    asked: Amounts = {}
    if space is not None and waiting.gang is not None:
        for member in members(book, space, waiting.gang):
            for resource, amount in member.request.amounts.items():
                asked[resource] = asked.get(resource, 0) + amount
    return asked


def grant(
    book: Book, space: Space, pool: Pool, first: Allocation, barred: set[str], now: int
) -> Draft | None:
    """The grant of a whole gang, each member seeing those before it; None where one does not fit."""
    assert first.gang is not None
    shadow = space.fork()
    draft = Draft(book, now)
    for member in members(book, space, first.gang):
        wish = wish_of(pool, member, barred)
        placements = place(shadow, pool.mix, wish)
        if placements is None:
            return None
        for placement in placements:
            shadow.replace(shadow.nodes[placement.node].plus(placement, 1))
        grant_one(book, draft, member, placements, wish.strategy)
    return draft


def could_ever_fit(pool: Pool, wishes: list[Wish]) -> bool:
    """Whether a gang would fit if nothing were in use."""
    shadow = Space(pool.name, {n.name: n.empty() for n in pool.space.nodes.values()})
    for wish in wishes:
        policy = strategy_for(wish.request, pool.policy, wish.seed)
        placements = place(shadow, pool.mix, Wish(wish.request, policy, wish.seed))
        if placements is None:
            return False
        for placement in placements:
            shadow.replace(shadow.nodes[placement.node].plus(placement, 1))
    return True
