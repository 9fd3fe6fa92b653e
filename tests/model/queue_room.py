"""Where a waiting request could land: free room, quotas, and what is kept for others.

Every answer is worked out anew from the lists of :mod:`tests.model.queue_state`. ``before`` gives
placements that some allocations had until a moment ago, for questions about that moment; ``gone``
names allocations to be thought away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ledger.requests import CARD, Amounts, Devices, Placement
from tests.model.queue_state import Entry, NodeState, PoolState, Unit, World

CARDS = ("gpu",)
Before = Mapping[str, tuple[Placement, ...]]
NOTHING: Before = {}


@dataclass(slots=True)
class Room:
    """What is free on a node, and on each of its cards."""

    free: Amounts
    cards: dict[str, dict[str, int]]

    def takes(self, amounts: Amounts) -> bool:
        """Whether the amounts fit."""
        for resource, amount in amounts.items():
            if not amount:
                continue
            if amount > self.free.get(resource, 0):
                return False
            if resource in CARDS:
                left = self.cards.get(resource, {}).values()
                if amount < CARD and not any(each >= amount for each in left):
                    return False
                if amount >= CARD and sum(each == CARD for each in left) < amount // CARD:
                    return False
        return True

    def without(self, amounts: Amounts) -> list[Room]:
        """The room that is left once the amounts are taken: one for each way to take them."""
        found = [Room(dict(self.free), {r: dict(on) for r, on in self.cards.items()})]
        for resource, amount in amounts.items():
            for room in found:
                room.free[resource] = room.free.get(resource, 0) - amount
            if resource in CARDS and amount:
                found = [
                    Room(room.free, {**room.cards, resource: left})
                    for room in found
                    for left in _cards_left(room.cards.get(resource, {}), amount)
                ]
        return found


def _cards_left(cards: dict[str, int], amount: int) -> list[dict[str, int]]:
    if amount >= CARD:
        whole = [card for card, left in cards.items() if left == CARD][: amount // CARD]
        return [{**cards, **dict.fromkeys(whole, 0)}]
    ways: dict[int, dict[str, int]] = {}
    for card, left in cards.items():
        if left >= amount:
            ways[left] = {**cards, card: left - amount}
    return list(ways.values())


def stretchable(world: World, entry: Entry) -> bool:
    """Whether the ledger may change the size of what is held."""
    elastic = entry.state == "active" and entry.request.most is not None and not entry.by_hand
    return elastic and not world.drawing(entry.id)


def cards_of(node: NodeState) -> Devices:
    """What there is of which card of a node."""
    if node.cards is not None:
        return {resource: dict(on) for resource, on in node.cards.items()}
    return {
        r: {str(card): CARD for card in range(node.capacity[r] // CARD)}
        for r in CARDS
        if r in node.capacity
    }


def room_on(
    world: World,
    pool: PoolState,
    node: NodeState,
    *,
    shrink: bool = False,
    before: Before = NOTHING,
    gone: Collection[str] = (),
) -> Room:
    """The room on a node. ``shrink`` counts what elastic allocations can be made to give back."""
    free = {r: c - node.outside.get(r, 0) for r, c in node.capacity.items()}
    for resource, spent in pool.spent.items():
        free[resource] = free.get(resource, 0) - spent
    cards = cards_of(node)
    for each in world.holding(pool.name):
        if each.id in gone:
            continue
        for part in before.get(each.id, each.placements):
            if part.node == node.name:
                _take_away(free, cards, part, each, shrink and stretchable(world, each))
    return Room(free, cards)


def _take_away(
    free: Amounts, cards: dict[str, dict[str, int]], part: Placement, each: Entry, shrink: bool
) -> None:
    for resource, amount in part.amounts.items():
        kept = each.request.amounts.get(resource, 0) if shrink else amount
        free[resource] = free.get(resource, 0) - kept
        if resource in CARDS:
            on = list(((part.devices or {}).get(resource) or {}).items())
            count = kept // CARD if shrink and kept >= CARD else len(on)
            for card, share in on[:count]:
                there = cards.setdefault(resource, {})
                there[card] = there.get(card, 0) - share


def suits(node: NodeState, select: dict[str, str] | None) -> bool:
    """Whether a node carries the wanted labels and takes anything new."""
    return not node.cordoned and all(node.labels.get(k) == v for k, v in (select or {}).items())


def could_take(node: NodeState, amounts: Amounts, *, outside: bool = True) -> bool:
    """Whether the amounts would fit if nothing lay on the node but what others use ``outside``."""
    free = {r: c - node.outside.get(r, 0) * outside for r, c in node.capacity.items()}
    return Room(free, cards_of(node)).takes(amounts)


def parts(amounts: Amounts, count: int, largest: bool) -> Amounts:
    """The largest or the smallest of ``count`` even parts; cards are parted whole."""
    if count == 1:
        # A share of one card is less than a whole one, and stays what it is.
        return amounts
    found = {}
    for resource, amount in amounts.items():
        step = CARD if resource in CARDS else 1
        whole, rest = divmod(amount // step, count)
        found[resource] = (whole + (1 if rest and largest else 0)) * step
    return found


def kept_for_others(world: World, unit: Unit, node: str, wanted: Collection[str]) -> str | None:
    """Who else has a claim on a node and wants something of ``wanted`` too.

    In strict order nobody is kept off by a claim: whoever came first is served first.
    """
    if world.pools[unit.first.pool].policy.order == "fifo":
        return None
    for other in world.waiting(unit.first.pool):
        if other.id != unit.id and node in other.claim and other.resources & set(wanted):
            return other.id
    return None


def open_to(world: World, unit: Unit, entry: Entry, claims: bool = True) -> list[NodeState]:
    """The nodes on which a member of a place in the queue may land for certain, full or not.

    The statement leaves open whether one request of a gang may land on a node that is kept for somebody
    who wants only what the gang's other requests want; it is not asked for here.
    """
    pool = world.pools[entry.pool]
    return [
        node
        for node in pool.nodes.values()
        if suits(node, entry.request.select)
        and not (claims and kept_for_others(world, unit, node.name, unit.resources))
    ]


def surely_fits(world: World, unit: Unit, *, before: Before = NOTHING, claims: bool = True) -> bool:
    """Whether a place in the queue could be granted for certain, going by capacity and claims."""
    pool = world.pools[unit.first.pool]
    if pool.closed:
        return False
    if len(unit.members) > 1:
        return _gang_fits(world, unit, before, claims)
    request = unit.first.request
    nodes = open_to(world, unit, unit.first, claims)
    if request.spread is None or request.spread == 1:
        return any(
            room_on(world, pool, node, shrink=True, before=before).takes(request.amounts)
            for node in nodes
        )
    rooms = [room_on(world, pool, node, before=before) for node in nodes]
    if request.spread == 0:
        counts = range(1, len(nodes) + 1)
        return any(_even(rooms, request.amounts, count) for count in counts)
    return _even(rooms, request.amounts, request.spread)


def _even(rooms: list[Room], amounts: Amounts, count: int) -> bool:
    part = parts(amounts, count, largest=True)
    return sum(room.takes(part) for room in rooms) >= count


def _gang_fits(world: World, unit: Unit, before: Before, claims: bool) -> bool:
    pool = world.pools[unit.first.pool]
    if any(each.request.spread not in (None, 1) for each in unit.members):
        return False
    choices = [[node.name for node in open_to(world, unit, each, claims)] for each in unit.members]
    rooms = {name: room_on(world, pool, node, before=before) for name, node in pool.nodes.items()}
    return _pack([each.request.amounts for each in unit.members], choices, rooms)


def _pack(wanted: list[Amounts], choices: list[list[str]], rooms: dict[str, Room]) -> bool:
    """Whether all fit in some way: every way is tried."""
    return not wanted or any(
        _pack(wanted[1:], choices[1:], {**rooms, name: left})
        for name in choices[0]
        if rooms[name].takes(wanted[0])
        for left in rooms[name].without(wanted[0])
    )


def fits_at_all(world: World, unit: Unit) -> bool:
    """Whether a place in the queue fits if nobody else held or waited."""
    everybody = {each.id: () for each in world.holding()}
    return surely_fits(world, unit, before=everybody, claims=False)


# --- quotas --------------------------------------------------------------------------------------


def over_quota(world: World, unit: Unit) -> bool:
    """Whether its own quota holds a place in the queue up."""
    needs: dict[tuple[str, str], Amounts] = {}
    for each in unit.members:
        sum_of = needs.setdefault((each.tenant, each.holder), {})
        for resource, amount in each.request.amounts.items():
            sum_of[resource] = sum_of.get(resource, 0) + amount
    tenants: dict[str, Amounts] = {}
    for (tenant, _), need in needs.items():
        total = tenants.setdefault(tenant, {})
        for resource, amount in need.items():
            total[resource] = total.get(resource, 0) + amount
    pool = unit.first.pool
    return any(
        excess(world, tenant, holder, pool, need) for (tenant, holder), need in needs.items()
    ) or any(excess(world, tenant, None, pool, total) for tenant, total in tenants.items())


def excess(world: World, tenant: str, holder: str | None, pool: str, more: Amounts) -> str | None:
    """What quota of a holder (None: of a whole tenant) it would break to hold ``more``."""
    for key, (limits, cohort) in world.quotas.items():
        if key[0] != tenant or key[1] != holder or key[2] not in (None, pool):
            continue
        for resource, amount in more.items():
            if resource not in limits or not amount:
                continue
            use = world.held(tenant, holder, key[2], resource) + amount
            if use > limits[resource] and use - limits[resource] > lent(
                world, key, cohort, resource
            ):
                return f"{key} allows {limits[resource]} {resource}, not {use}"
    return None


def lent(
    world: World, key: tuple[str, str | None, str | None], cohort: str | None, resource: str
) -> int:
    """What the others of a cohort leave unused and have not lent to one another already."""
    if cohort is None:
        return 0
    left = 0
    for other, (limits, theirs) in world.quotas.items():
        if other != key and theirs == cohort and other[1:] == key[1:] and resource in limits:
            left += limits[resource] - world.held(other[0], other[1], other[2], resource)
    return max(0, left)
