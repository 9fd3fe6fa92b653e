"""Whether every node, card and resource balances, and whether a grant has the shape it asked for."""

from __future__ import annotations

from ledger.events import (
    Adjusted,
    Allocated,
    CapacityObserved,
    Event,
    PoolResized,
    Released,
    Reserved,
)
from ledger.requests import CARD, Placement
from tests.model.queue_room import CARDS, cards_of, could_take, parts, room_on, suits
from tests.model.queue_state import NodeState, World
from tests.model.queue_wrong import wrong_unless

MAY_OVERDRAW = (PoolResized, CapacityObserved, Released)


def in_use(world: World, pool: str, node: str, resource: str) -> int:
    """What of a resource is taken on a node: what is held, and what of a budget is spent."""
    held = sum(
        part.amounts.get(resource, 0)
        for each in world.holding(pool)
        for part in each.placements
        if part.node == node
    )
    return held + world.pools[pool].spent.get(resource, 0)


def over_places(world: World) -> dict[tuple[str, str, str], int]:
    """Every place that holds more than it has, and by how much."""
    found = {}
    for pool in world.pools.values():
        for node in pool.nodes.values():
            resources = {r for e in world.holding(pool.name) for r in e.amounts}
            for resource in resources | set(node.capacity) | set(pool.spent):
                left = node.capacity.get(resource, 0) - node.outside.get(resource, 0)
                more = in_use(world, pool.name, node.name, resource) - left
                if more > 0:
                    found[(pool.name, node.name, resource)] = more
    return found


def balance(world: World, event: Event, before: dict[tuple[str, str, str], int]) -> None:
    """Nothing holds more than there is, but where an operator or an overdraft has made it so."""
    if not isinstance(event.body, MAY_OVERDRAW) or (
        isinstance(event.body, Released) and not world.pools[event.pool or ""].consumable
    ):
        for place, more in over_places(world).items():
            wrong_unless(more <= before.get(place, 0), event, f"{place} is over by {more}")
    cards_balance(world, event)


def figures_agree(world: World, event: Event) -> None:
    """What an event says of use is so, and its placements are all of it."""
    if isinstance(event.body, Allocated | Reserved | Adjusted) and event.pool is not None:
        for part in event.body.placements:
            for resource, said in part.in_use.items():
                found = in_use(world, event.pool, part.node, resource)
                wrong_unless(
                    said == found, event, f"{part.node} has {found} {resource} in use, not {said}"
                )
        total: dict[str, int] = {}
        for part in event.body.placements:
            for resource, amount in part.amounts.items():
                wrong_unless(amount >= 0, event, "amounts are not negative")
                total[resource] = total.get(resource, 0) + amount
        wrong_unless(total == event.body.amounts, event, "the placements are all of it")


def cards_balance(world: World, event: Event) -> None:
    """No card holds more than there is of it, and a whole one holds nothing else."""
    for pool in world.pools.values():
        for node in pool.nodes.values():
            _cards_balance(world, event, pool.name, node)


def _cards_balance(world: World, event: Event, pool: str, node: NodeState) -> None:
    on: dict[tuple[str, str], list[int]] = {}
    for each in world.holding(pool):
        for part in each.placements:
            if part.node == node.name:
                for resource, cards in (part.devices or {}).items():
                    for card, amount in cards.items():
                        on.setdefault((resource, card), []).append(amount)
                    wrong_unless(
                        sum(cards.values()) == part.amounts.get(resource, 0),
                        event,
                        f"the cards of {each.id} do not add up",
                    )
    for (resource, number), lying in on.items():
        there = CARD if node.cards is None else cards_of(node).get(resource, {}).get(number, 0)
        fine = sum(lying) <= there
        wrong_unless(fine, event, f"card {number} of {node.name} holds {sum(lying)}")
        wrong_unless(len(lying) == 1 or CARD not in lying, event, f"card {number} was given whole")


def grant_is_whole(world: World, event: Event, stood: dict[str, tuple[Placement, ...]]) -> None:
    """A grant lies where it may, in its range, evenly where it is spread."""
    body = event.body
    assert isinstance(body, Allocated | Reserved) and event.pool is not None
    pool, request = world.pools[event.pool], body.request
    wrong_unless(set(body.amounts) == set(request.amounts), event, "what was asked for")
    for resource, amount in body.amounts.items():
        most = (request.most or request.amounts)[resource]
        fine = request.amounts[resource] <= amount <= most
        wrong_unless(fine, event, f"{amount} {resource} is not in its range")
    names = [part.node for part in body.placements]
    wrong_unless(len(set(names)) == len(names) > 0, event, "each node once")
    for part in body.placements:
        node = pool.nodes.get(part.node)
        wrong_unless(node is not None, event, f"there is no {part.node}")
        assert node is not None
        wrong_unless(suits(node, request.select), event, f"{part.node} was not selected")
        wrong_unless(could_take(node, part.amounts), event, f"{part.node} cannot take it")
        for resource in CARDS:
            on = ((part.devices or {}).get(resource) or {}).values()
            amount = part.amounts.get(resource, 0)
            shape = list(on) == [amount] if amount < CARD else all(a == CARD for a in on)
            wrong_unless(shape or not amount, event, "a share lies on one card")
    if request.spread is None or request.spread == 1:
        wrong_unless(len(names) == 1, event, "it lands whole on one node")
    elif request.spread == 0:
        _as_few_as_it_takes(world, event, len(names), stood)
    else:
        wrong_unless(len(names) == request.spread, event, f"{request.spread} nodes were asked for")
        low = parts(request.amounts, request.spread, largest=False)
        high = parts(request.amounts, request.spread, largest=True)
        for part in body.placements:
            even = all(low[r] <= a <= high[r] for r, a in part.amounts.items())
            wrong_unless(even, event, f"{part.node} has no even part")


def _as_few_as_it_takes(
    world: World, event: Event, count: int, stood: dict[str, tuple[Placement, ...]]
) -> None:
    body = event.body
    assert isinstance(body, Allocated | Reserved) and event.pool is not None
    pool = world.pools[event.pool]
    mine = {event.allocation or ""}
    nodes = [node for node in pool.nodes.values() if suits(node, body.request.select)]
    claimed = {node for unit in world.waiting(event.pool) for node in unit.claim}
    rooms = [
        room_on(world, pool, node, before=stood, gone=mine)
        for node in nodes
        if node.name not in claimed
    ]
    # What is packed together with others takes as few as they all leave it.
    together = body.gang is not None or (event.cause is not None and event.cause.items is not None)
    if count > 1 and not together:
        alone = any(room.takes(body.request.amounts) for room in rooms)
        wrong_unless(not alone, event, "one node would have taken it")
