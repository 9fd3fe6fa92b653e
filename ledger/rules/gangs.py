"""Gangs: the requests of an atomic batch that waits. They are one place in the queue, all or none.

A request that is spread over several nodes needs as much at once; what is said here of a gang's nodes
and claims is said of it too.
"""

from __future__ import annotations

from collections.abc import Collection

from ledger.book import Allocation, Book, Pool
from ledger.requests import Amounts, Request
from ledger.rules.answers import Draft
from ledger.rules.granting import grant as grant_one
from ledger.rules.granting import wish_of
from ledger.rules.keeping import as_planned, on_claimed
from ledger.rules.packing import Packed, could_ever, each_alone, together
from ledger.rules.placement import Wish, strategy_for
from ledger.spaces import Space


def members(book: Book, space: Space, gang: str) -> list[Allocation]:
    """All that wait as one place, by arrival."""
    return [book.allocations[each] for each in space.gangs.get(gang, {})]


def total(book: Book, waiting: Allocation) -> Amounts:
    """What is asked for in all in one place of the queue."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    if space is None or waiting.gang is None:
        return waiting.request.amounts
    asked: Amounts = {}
    for member in members(book, space, waiting.gang):
        for resource, amount in member.request.amounts.items():
            asked[resource] = asked.get(resource, 0) + amount
    return asked


def is_several(waiting: Allocation) -> bool:
    """Whether a waiting request needs room on several nodes at once, or may."""
    return waiting.gang is not None or waiting.request.spread is not None


def all_of(book: Book, space: Space, first: Allocation) -> list[Allocation]:
    """All that wait in one place of the queue, by arrival."""
    return [first] if first.gang is None else members(book, space, first.gang)


def requests_of(book: Book, space: Space, first: Allocation) -> list[Request]:
    """What is asked for in one place of the queue, by arrival."""
    return [each.request for each in all_of(book, space, first)]


def wants(book: Book, space: Space, first: Allocation) -> set[str]:
    """The resources that one place of the queue asks for."""
    if first.gang is None:
        return set(first.request.amounts)
    return {
        resource for each in members(book, space, first.gang) for resource in each.request.amounts
    }


def room_for(
    book: Book, space: Space, pool: Pool, first: Allocation, barred: Collection[str], steps: int = 0
) -> Packed | None:
    """Where a gang or a spread fits now, or None. ``steps``: see :func:`ledger.rules.packing.together`.

    Whoever has a claim is granted on the claimed nodes as soon as they have emptied.
    """
    gang = all_of(book, space, first)
    wishes = [wish_of(pool, each, barred, first.claims) for each in gang]
    found = together(space, pool.mix, wishes, steps)
    if found is None and first.claims and len(gang) > 1 and each_alone(space, pool.mix, wishes):
        requests = [each.request for each in gang]
        found = on_claimed(space, first.claims, requests)
        if found is None:
            found = as_planned(space, first.claims, requests)
    return found


def grant(
    book: Book, space: Space, pool: Pool, first: Allocation, found: Packed, draft: Draft
) -> Draft:
    """Draft the grant of a whole gang, or of a spread, where room was found."""
    for member, placements in zip(all_of(book, space, first), found, strict=True):
        grant_one(book, draft, member, placements, wish_of(pool, member, ()).strategy)
    return draft


def could_ever_fit(pool: Pool, wishes: list[Wish]) -> bool:
    """Whether a gang may fit if nothing were in use. False only where it is certain that it does not."""
    empty = Space(pool.name, {n.name: n.empty() for n in pool.space.nodes.values()})
    told = [Wish(w.request, strategy_for(w.request, pool.policy, w.seed), w.seed) for w in wishes]
    return could_ever(empty, pool.mix, told)
