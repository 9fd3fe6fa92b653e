"""Who comes before whom: ranks, shares and the places of a queue.

What ``docs/queue.md`` says of the fair order is about a pool. Of those that draw on one allocation it
leaves open whose share counts: there the earlier of two of one rank and one holder comes first.
"""

from __future__ import annotations

from fractions import Fraction

from ledger.requests import PRIORITIES, Amounts
from tests.model.queue_state import Entry, Unit, World


def comes_before(world: World, one: Unit, other: Unit) -> bool:
    """Whether a place is better than another for certain."""
    if world.parent is None:
        return key(world, one) < key(world, other)
    ranks = [rank(world, unit.first) for unit in (one, other)]
    alike = one.first.holder == other.first.holder
    return ranks[0] < ranks[1] or (ranks[0] == ranks[1] and alike and one.position < other.position)


def key(world: World, unit: Unit) -> tuple[int, Fraction, int, Fraction, int, int]:
    """A place in the fair order: the smaller comes first.

    Tenants that hold equally much come in the order of their first requests of a rank; so do a tenant's
    holders, but for those that hold nothing. A gang stands where its first request does.
    """
    first = unit.first
    mine = rank(world, first)
    alike = [
        each
        for each in [first, *world.entries.values()]
        if (each.pool, each.tenant, each.parent) == (first.pool, first.tenant, None)
        and (each is first or each.state == "waiting")
        and rank(world, each) == mine
    ]
    of_holder = share(world, first.pool, first.tenant, first.holder)
    return (
        mine,
        share(world, first.pool, first.tenant, None),
        min(each.position for each in alike),
        of_holder,
        min(each.position for each in alike if not of_holder or each.holder == first.holder),
        unit.position,
    )


def rank(world: World, entry: Entry) -> int:
    """The window in which a request arrived, less its priority."""
    window = entry.asked_at // world.pools[entry.pool].policy.ageing_ns
    return window - PRIORITIES.index(entry.request.priority)


def share(world: World, pool: str, tenant: str, holder: str | None) -> Fraction:
    """The largest part of any resource of a pool that is held."""
    capacity: Amounts = {}
    for node in world.pools[pool].nodes.values():
        for resource, amount in node.capacity.items():
            capacity[resource] = capacity.get(resource, 0) + amount
    shares = [
        Fraction(world.held(tenant, holder, pool, resource), amount)
        for resource, amount in capacity.items()
        if amount
    ]
    return max(shares, default=Fraction(0))


def at_the_front(units: list[Unit]) -> list[Unit]:
    """Those behind whom nobody else wants the same."""
    found, wanted = [], set[str]()
    for unit in units:
        if not unit.resources & wanted:
            found.append(unit)
        wanted |= unit.resources
    return found
