"""Packing: where several requests fit together, all or none.

Tried in their own order first, each by its strategy; then the largest first; then, where that is
asked for, by a search that goes back on its choices and takes no more than a number of steps. What
the search exhausts fits nowhere; where it is cut off, nobody knows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from ledger.mix import Mix, shape_of
from ledger.nodes import Node
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Devices, Placement, Request
from ledger.rules.capacity import free, place_on, scaled
from ledger.rules.placement import Wish, eligible, place, shares_of
from ledger.spaces import Space

Packed = list[tuple[Placement, ...]]
"""The placements of each request, in the order of the requests."""

SEARCHED_MAX = 64
"""The most requests that a search is made for; larger gangs are only tried in two orders."""
STEPS_NOW = 500
"""How many looks at a node one search for room now may take."""
STEPS_EVER = 20_000
"""The same for whether a gang could fit at all, which is asked once."""


def together(space: Space, mix: Mix, wishes: Sequence[Wish], steps: int = 0) -> Packed | None:
    """Where the wishes fit now, or None. With ``steps`` a search of so many is made at the end."""
    if len(wishes) == 1:
        placements = place(space, mix, wishes[0])
        return None if placements is None else [placements]
    if not each_alone(space, mix, wishes):
        return None
    found = _greedily(space, mix, wishes)
    if found is None and steps and len(wishes) <= SEARCHED_MAX and _enough(space, wishes):
        found = _Search(space, wishes, steps).run()
    return None if found is None else lined_up(space, found)


def each_alone(space: Space, mix: Mix, wishes: Sequence[Wish]) -> bool:
    """Whether there is room for each of the wishes, if only it were placed."""
    alike = {(shape_of(wish.request), wish.request.spread): wish for wish in wishes}
    return all(place(space, mix, wish) is not None for wish in alike.values())


def could_ever(space: Space, mix: Mix, wishes: Sequence[Wish]) -> bool:
    """Whether wishes may fit together on these nodes. False only where it is certain that they do not.

    Give it empty nodes to ask whether they fit when nothing is in use.
    """
    if not _enough(space, wishes):
        return False
    if len(wishes) > SEARCHED_MAX or _greedily(space, mix, wishes) is not None:
        return True
    search = _Search(space, wishes, STEPS_EVER)
    return search.run() is not None or search.cut


def lined_up(space: Space, packed: Packed) -> Packed:
    """The same places, taken in the order of the requests: each says what is in use after it."""
    nodes: dict[str, Node] = {}
    result: Packed = []
    for placements in packed:
        line = []
        for p in placements:
            node = nodes.get(p.node) or space.nodes[p.node]
            after = {r: node.in_use.get(r, 0) + amount for r, amount in p.amounts.items()}
            again = Placement(p.node, p.amounts, after, p.devices)
            nodes[p.node] = node.plus(again, 1)
            line.append(again)
        result.append(tuple(line))
    return result


def largest_first(requests: Sequence[Request], totals: Amounts) -> list[int]:
    """The numbers of requests, those with the largest dominant share first, then in their order."""

    def size(request: Request) -> int:
        return max(scaled(amount, totals.get(r, 0)) for r, amount in request.amounts.items())

    return sorted(range(len(requests)), key=lambda index: (-size(requests[index]), index))


def _greedily(space: Space, mix: Mix, wishes: Sequence[Wish]) -> Packed | None:
    found = _in_order(space, mix, wishes, range(len(wishes)))
    if found is None and len(wishes) > 1:
        order = largest_first([wish.request for wish in wishes], space.totals)
        if order != list(range(len(wishes))):
            found = _in_order(space, mix, wishes, order)
    return found


def _in_order(
    space: Space, mix: Mix, wishes: Sequence[Wish], order: Sequence[int]
) -> Packed | None:
    shadow = space.shadow()
    found: Packed = [()] * len(wishes)
    for index in order:
        placements = place(shadow, mix, wishes[index])
        if placements is None:
            return None
        for placement in placements:
            shadow.replace(shadow.nodes[placement.node].plus(placement, 1))
        found[index] = placements
    return found


def _enough(space: Space, wishes: Sequence[Wish]) -> bool:
    """Whether the nodes together have what is asked for in all."""
    asked: Amounts = {}
    for wish in wishes:
        for resource, amount in wish.request.amounts.items():
            asked[resource] = asked.get(resource, 0) + amount
    open_ = [node for node in space.nodes.values() if not node.cordoned]
    return all(sum(free(node, r) for node in open_) >= amount for r, amount in asked.items())


_Look = tuple[object, ...]
_Choice = tuple[int, list[Amounts], int]
"""The place of a wish in the order, the parts that it is placed in, and the number of one of them."""


class _Search:
    """A search of all ways to place the wishes, but for those that differ by nothing that counts.

    ``cut`` says that it ended for want of steps. A spread has up to as many parts as there are nodes,
    so what was chosen for one part after another stands in a list: nothing here calls itself.
    """

    def __init__(self, space: Space, wishes: Sequence[Wish], steps: int) -> None:
        self.cut = False
        self._steps = steps
        self._wishes = wishes
        self._nodes = list(space.nodes.values())
        self._resources = sorted({r for wish in wishes for r in wish.request.amounts})
        # Those of a batch want different things, so they may be kept off different nodes.
        which = [(shape_of(wish.request)[1], frozenset(wish.barred)) for wish in wishes]
        distinct = dict(zip(which, wishes, strict=True))
        allowed = {
            key: {n.name for n in eligible(self._nodes, wish)} for key, wish in distinct.items()
        }
        self._suits = [tuple(n.name in names for names in allowed.values()) for n in self._nodes]
        self._kinds = [list(allowed).index(key) for key in which]
        self._most = [len(allowed[key]) for key in which]
        # Nodes that suit the same wishes and have the same left are one as good as the other.
        self._alike: dict[tuple[bool, ...], dict[_Look, list[int]]] = {}
        for number, node in enumerate(self._nodes):
            looks = self._alike.setdefault(self._suits[number], {})
            looks.setdefault(self._look(node), []).append(number)
        order = largest_first([wish.request for wish in wishes], space.totals)
        self._order = sorted(order, key=lambda i: (self._most[i], order.index(i)))
        self._found: list[list[Placement]] = [[] for _ in wishes]
        # The numbers of the nodes of what was found, in the order in which they were chosen.
        self._used: list[dict[int, None]] = [{} for _ in wishes]

    def run(self) -> Packed | None:
        """A way to place them all, or None."""
        chosen = [self._begin(0)]
        while chosen and not self.cut:
            choice = next(chosen[-1], None)
            if choice is None:
                chosen.pop()
                continue
            at, parts, number = choice
            if number + 1 < len(parts):
                chosen.append(self._part(at, parts, number + 1))
            elif at + 1 < len(self._order):
                chosen.append(self._begin(at + 1))
            else:
                return [tuple(each) for each in self._found]
        return None

    def _begin(self, at: int) -> Iterator[_Choice]:
        """Place the first part of the wish at a place of the order, in each way there is."""
        for parts in self._ways(self._order[at]):
            yield from self._part(at, parts, 0)

    def _ways(self, index: int) -> Iterator[list[Amounts]]:
        """The parts in which a wish may be placed, on as many different nodes."""
        request = self._wishes[index].request
        if request.spread is None:
            yield [request.amounts]
            return
        most = self._most[index]
        for count in [request.spread] if request.spread else range(1, most + 1):
            parts = shares_of(request.amounts, count)
            if parts is not None:
                yield parts

    def _part(self, at: int, parts: list[Amounts], number: int) -> Iterator[_Choice]:
        """Place one part in each way there is; whoever asks for the next takes back the one before."""
        index, part = self._order[at], parts[number]
        mine, used = self._found[index], self._used[index]
        for each in self._first_alike(index, self._least(at, parts, number)):
            node = self._nodes[each]
            for placement in self._on(node, part):
                self._replace(each, node.plus(placement, 1))
                mine.append(placement)
                used[each] = None
                yield at, parts, number
                del used[each]
                mine.pop()
                self._replace(each, node)

    def _first_alike(self, index: int, least: int) -> list[int]:
        """The first from ``least`` on of each kind of nodes that a wish may use, in their order."""
        kind, used = self._kinds[index], self._used[index]
        found = []
        for suits, looks in self._alike.items():
            if suits[kind]:
                for numbers in looks.values():
                    since = bisect_left(numbers, least)
                    while since < len(numbers) and numbers[since] in used:
                        since += 1
                    if since < len(numbers):
                        found.append(numbers[since])
        return sorted(found)

    def _replace(self, each: int, node: Node) -> None:
        """Another value in the place of a node."""
        looks = self._alike[self._suits[each]]
        old = self._look(self._nodes[each])
        alike = looks[old]
        del alike[bisect_left(alike, each)]
        if not alike:
            del looks[old]
        insort(looks.setdefault(self._look(node), []), each)
        self._nodes[each] = node

    def _least(self, at: int, parts: list[Amounts], number: int) -> int:
        """The first node to try: of equal parts, and of equal wishes, the order makes no difference."""
        before: int | None = None
        if number and parts[number] == parts[number - 1]:
            before = self._order[at]
        elif at and len(parts) == 1:
            one, other = (self._wishes[self._order[i]].request for i in (at, at - 1))
            if one.spread is other.spread is None and shape_of(one) == shape_of(other):
                before = self._order[at - 1]
        return 0 if before is None else next(reversed(self._used[before]))

    def _look(self, node: Node) -> _Look:
        """What tells a node from others that suit the same wishes."""
        rooms = tuple(
            tuple(sorted(_rooms(node, r).values())) for r in self._resources if r in CARD_RESOURCES
        )
        return rooms, tuple(free(node, r) for r in self._resources)

    def _on(self, node: Node, part: Amounts) -> Iterator[Placement]:
        """The ways to place a part on a node: one, but for shares of cards with different room."""
        keeps: list[Devices] = [{}]
        for resource in CARD_RESOURCES:
            if 0 < part.get(resource, 0) < CARD:
                by_room = {room: card for card, room in _rooms(node, resource).items()}
                rooms = sorted(room for room in by_room if room >= part[resource])
                keeps = [{**k, resource: {by_room[room]: 1}} for k in keeps for room in rooms]
        for keep in keeps:
            self._steps -= 1
            if self._steps < 0:
                self.cut = True
                return
            placement = place_on(node, part, keep)
            if placement is not None:
                yield placement


def _rooms(node: Node, resource: str) -> dict[str, int]:
    """Card → what it has left."""
    used = node.cards_in_use.get(resource, {})
    return {
        card: size - used.get(card, 0)
        for card, size in sorted(node.cards.get(resource, {}).items(), key=lambda c: int(c[0]))
    }
