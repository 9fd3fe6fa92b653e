"""Elastic allocations: when the ledger may change their size, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ledger.events import Adjusted, Allocated, Event, Reserved
from ledger.requests import Amounts, Placement
from tests.model.queue_room import CARDS, excess, over_quota, room_on, stretchable
from tests.model.queue_state import Entry, World
from tests.model.queue_wrong import wrong_unless


class Stretching:
    """Follows what the ledger adjusts by itself. ``before`` is what was held before it was shrunk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.before: dict[str, tuple[Amounts, tuple[Placement, ...]]] = {}
        self.shrunk: list[tuple[Event, Entry]] = []
        self.for_it: dict[int, tuple[Event, set[str]]] = {}
        self.grown: list[tuple[Event, Entry, set[str]]] = []
        self.place = ""

    def begin(self, now: int) -> None:
        """A step begins."""
        self.before, self.shrunk, self.grown, self.for_it = {}, [], [], {}
        self.place = ""

    def served(self, place: str) -> None:
        """A place in the queue is served: what was shrunk for the one before it is no matter of its."""
        if place != self.place:
            self._forget()
        self.place = place

    def _forget(self) -> None:
        """Leave aside what was shrunk for somebody who got in."""
        self.shrunk = [each for each in self.shrunk if each[0].position not in self.for_it]
        left = {entry.id for _, entry in self.shrunk}
        self.before = {id: held for id, held in self.before.items() if id in left}

    def adjusted(self, event: Event, body: Adjusted, entry: Entry) -> None:
        """The size of an allocation changes: by hand, or by the ledger within its range."""
        wrong_unless(body.previous == entry.amounts, event, f"it had {entry.amounts}")
        nodes = [part.node for part in entry.placements]
        wrong_unless([p.node for p in body.placements] == nodes, event, "it stays where it is")
        grows = any(amount > entry.amounts.get(r, 0) for r, amount in body.amounts.items())
        if grows and self.world.parent is None:
            still = [name for name in nodes if self.world.cordoned(entry.pool, name)]
            wrong_unless(not still, event, f"nothing grows on {still}, which is cordoned")
        if event.cause is not None:
            return
        wrong_unless(entry.state == "active", event, f"it is {entry.state}")
        most = entry.request.most
        wrong_unless(most is not None, event, "it is not elastic")
        assert most is not None
        wrong_unless(not entry.by_hand, event, "its size was chosen by hand")
        drawing = [each.id for each in self.world.drawing(entry.id)]
        wrong_unless(not drawing, event, f"{drawing} draw on it")
        wrong_unless(set(body.amounts) == set(entry.amounts), event, "the same resources")
        more, less = set[str](), set[str]()
        for resource, amount in body.amounts.items():
            fine = entry.request.amounts[resource] <= amount <= most[resource]
            wrong_unless(fine, event, f"{amount} {resource} is not in its range")
            had = entry.amounts[resource]
            (more if amount > had else less if amount < had else set()).add(resource)
        wrong_unless(bool(more) != bool(less), event, "it grows or shrinks")
        if less:
            self._forget()
            self.before.setdefault(entry.id, (entry.amounts, entry.placements))
            self.shrunk.append((event, entry))
        else:
            self._grows(event, body, entry, more)

    def _grows(self, event: Event, body: Adjusted, entry: Entry, more: set[str]) -> None:
        world = self.world
        wrong_unless(not world.pools[entry.pool].closed, event, "the pool is closed")
        extra = {r: body.amounts[r] - entry.amounts[r] for r in more}
        for holder in (None, entry.holder):
            over = excess(world, entry.tenant, holder, entry.pool, extra)
            wrong_unless(over is None, event, f"it grows over its quota: {over}")
        self.grown.append((event, entry, more))

    def granted(self, event: Event, stood: dict[str, tuple[Placement, ...]]) -> None:
        """Somebody got in: what was shrunk just before was shrunk for that, and no more of it."""
        body, world = event.body, self.world
        assert isinstance(body, Allocated | Reserved) and event.pool is not None
        pool = world.pools[event.pool]
        request = body.request
        alone = body.gang is None and request.spread in (None, 1)
        if event.cause is not None and event.cause.items is not None:
            alone = False
        for shrink, entry in self.shrunk:
            names = {part.node for part in entry.placements}
            here = [part for part in body.placements if part.node in names]
            self.for_it.setdefault(shrink.position, (shrink, set()))[1].update(
                part.node for part in here
            )
            if not alone:
                continue
            wrong_unless(bool(here), shrink, f"{event.allocation} did not get in by it")
            assert isinstance(shrink.body, Adjusted)
            less = {r for r, a in shrink.body.amounts.items() if a < shrink.body.previous[r]}
            wrong_unless(less <= set(request.amounts), shrink, "of what nobody asked for")
            room = room_on(world, pool, pool.nodes[here[0].node])
            for resource in less:
                if resource in CARDS:
                    whole = sum(left == 1000 for left in room.cards[resource].values())
                    wrong_unless(whole == 0, shrink, f"{whole} cards more than were needed")
                else:
                    left = room.free[resource]
                    wrong_unless(left == 0, shrink, f"{left} {resource} more than was needed")
        if not self.shrunk:
            self._takes_what_is_free(event, stood)
        if alone:
            self.before, self.shrunk = {}, []

    def _takes_what_is_free(self, event: Event, stood: dict[str, tuple[Placement, ...]]) -> None:
        """Where nobody waits and no quota binds, it gets what is free in its range."""
        body, world = event.body, self.world
        assert isinstance(body, Allocated | Reserved) and event.pool is not None
        most = body.request.most
        if most is None or world.waiting(event.pool) or world.quotas or body.gang is not None:
            return
        if event.cause is not None and event.cause.items is not None:
            return
        pool = world.pools[event.pool]
        room = room_on(world, pool, pool.nodes[body.placements[0].node])
        for resource, amount in body.amounts.items():
            if resource not in CARDS:
                fine = amount == most[resource] or room.free[resource] == 0
                wrong_unless(fine, event, f"{room.free[resource]} {resource} more were free")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """The world as it was before somebody was shrunk for the grant that is looked at."""
        now = {id: (e.amounts, e.placements) for id, e in self.world.entries.items()}
        for held in (self.before, now):
            for id in self.before:
                entry = self.world.entries[id]
                entry.amounts, entry.placements = held[id]
            if held is self.before:
                yield

    def finish(self) -> None:
        """Nothing was shrunk in vain, and nothing grew into what somebody waits for."""
        for event, _ in self.shrunk:
            wrong_unless(event.position in self.for_it, event, "nobody got in by it")
        for event, nodes in self.for_it.values():
            wrong_unless(bool(nodes), event, "nobody got in by it")
        for event, entry, more in self.grown:
            for unit in self.world.waiting(entry.pool):
                fine = not unit.resources & more or over_quota(self.world, unit)
                wrong_unless(fine, event, f"it grows while {unit.id} waits for that")


def grows_no_more(world: World, pool: str) -> list[str]:
    """The elastic allocations that could be larger though nobody waits and no quota binds."""
    if world.waiting(pool) or world.quotas or world.pools[pool].closed:
        return []
    found = []
    state = world.pools[pool]
    for each in world.holding(pool):
        if not stretchable(world, each) or len(each.placements) != 1:
            continue
        node = state.nodes[each.placements[0].node]
        if world.cordoned(pool, node.name):
            continue
        room = room_on(world, state, node)
        most = each.request.most or {}
        for resource, amount in each.amounts.items():
            if resource not in CARDS and amount < most[resource] and room.free[resource] > 0:
                found.append(each.id)
    return found
