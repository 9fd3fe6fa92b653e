"""Keeping: which nodes are claimed for a request that needs several, and what it gets on them.

The nodes on which least is missing, such that all of the request fits there once they are empty. Where
it goes on them then (:func:`plan_on`) is worked out from their sizes and nothing else, so that what
was promised with the claim can be taken as soon as they have emptied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush

from ledger.mix import Mix, shape_of
from ledger.nodes import Node
from ledger.requests import Amounts, Placement, Request
from ledger.rules.capacity import carries, fits_empty, left, place_on
from ledger.rules.packing import STEPS_NOW, Packed, largest_first, together
from ledger.rules.placement import Wish, shares_of
from ledger.spaces import Space

_NO_MIX = Mix()


def plan_on(space: Space, names: Iterable[str], requests: Sequence[Request]) -> Packed | None:
    """Where requests go on these nodes when nothing is in use there; None where they do not fit."""
    nodes = {}
    for name in sorted(names):
        node = space.nodes.get(name)
        if node is None or node.cordoned:
            return None
        nodes[name] = node.empty()
    wishes = [Wish(request, "first_fit") for request in requests]
    return together(Space(space.key, nodes), _NO_MIX, wishes, STEPS_NOW)


def as_planned(space: Space, names: Iterable[str], requests: Sequence[Request]) -> Packed | None:
    """What :func:`plan_on` promised, as it fits now beside what stands there; None where it does not."""
    plan = plan_on(space, names, requests)
    if plan is None:
        return None
    nodes: dict[str, Node] = {}
    packed: Packed = []
    for placements in plan:
        line: list[Placement] = []
        for p in placements:
            node = nodes.get(p.node) or space.nodes[p.node]
            placed = place_on(node, p.amounts, p.devices)
            if placed is None:
                return None
            nodes[p.node] = node.plus(placed, 1)
            line.append(placed)
        packed.append(tuple(line))
    return packed


def on_claimed(space: Space, names: Iterable[str], requests: Sequence[Request]) -> Packed | None:
    """Where requests fit now on these nodes alone, beside what stands there."""
    nodes = {n: space.nodes[n] for n in sorted(names) if n in space.nodes}
    wishes = [Wish(request, "first_fit") for request in requests]
    return together(Space(space.key, nodes), _NO_MIX, wishes, STEPS_NOW)


def nodes_for(
    space: Space, requests: Sequence[Request], taken: Collection[str]
) -> frozenset[str] | None:
    """The nodes to keep for requests, none of those that are ``taken``; None where no set will do."""
    open_ = [n for n in space.nodes.values() if not n.cordoned and n.name not in taken]
    chosen = Nearest(open_, {n.name: n.empty() for n in open_}).choose(requests, space.totals)
    if chosen is not None and plan_on(space, chosen, requests) is not None:
        return frozenset(chosen)
    plan = plan_on(space, [node.name for node in open_], requests)
    if plan is None:
        return None
    names = frozenset(p.node for placements in plan for p in placements)
    return names if plan_on(space, names, requests) is not None else None


def usable(space: Space, requests: Sequence[Request]) -> set[str]:
    """The nodes that could take a part of the requests."""
    wants = {shape_of(r): (r, _smallest(r, len(space.nodes))) for r in requests}
    return {
        node.name
        for node in space.nodes.values()
        if not node.cordoned
        and any(carries(node, r.select) and fits_empty(node, part) for r, part in wants.values())
    }


def _smallest(request: Request, nodes: int) -> Amounts:
    if request.spread is None:
        return request.amounts
    counts = [request.spread] if request.spread else range(nodes, 0, -1)
    parts = next((p for count in counts if (p := shares_of(request.amounts, count))), None)
    return request.amounts if parts is None else parts[-1]


def missing_on(space: Space, plan: Packed) -> dict[str, Amounts]:
    """Node → what it lacks now of what is planned for it, for each node of a plan."""
    wanted: dict[str, Amounts] = {}
    for placements in plan:
        for p in placements:
            on = wanted.setdefault(p.node, {})
            for resource, amount in p.amounts.items():
                on[resource] = on.get(resource, 0) + amount
    lacks = {}
    for name in sorted(wanted):
        node = space.nodes[name]
        rest = {r: amount - max(0, left(node, r)) for r, amount in wanted[name].items()}
        lacks[name] = {r: lack for r, lack in rest.items() if lack > 0}
    return lacks


class Nearest:
    """Chooses nodes for one part after the other, the nearest first, as if they were ``emptied``."""

    def __init__(self, nodes: Sequence[Node], emptied: dict[str, Node]) -> None:
        self._real = {node.name: node for node in nodes}
        self._empty = emptied.copy()
        self._before = emptied

    def choose(self, requests: Sequence[Request], totals: Amounts) -> set[str] | None:
        """The names of enough nodes, or None where this finds none. The largest request goes first."""
        names: set[str] = set()
        last: tuple[object, ...] | None = None
        heap: list[tuple[int, str]] = []
        for index in largest_first(requests, totals):
            request = requests[index]
            if request.spread is not None:
                spread = self._spread(request)
                if spread is None:
                    return None
                names |= spread
                last = None
                continue
            if shape_of(request) != last:
                last = shape_of(request)
                heap = self._ranked(request, request.amounts)
                heapify(heap)
            if not heap:
                return None
            _, name = heappop(heap)
            names.add(name)
            self._put(name, request.amounts)
            if place_on(self._empty[name], request.amounts) is not None:
                heappush(heap, (self._missing(name, request.amounts), name))
        return names

    def _ranked(self, request: Request, part: Amounts) -> list[tuple[int, str]]:
        return [
            (self._missing(name, part), name)
            for name, node in self._empty.items()
            if carries(node, request.select) and place_on(node, part) is not None
        ]

    def _missing(self, name: str, part: Amounts) -> int:
        real, planned, before = (
            self._real[name],
            self._empty[name].in_use,
            self._before[name].in_use,
        )
        lacks = (
            (a, a + planned.get(r, 0) - before.get(r, 0) - left(real, r)) for r, a in part.items()
        )
        return sum(min(a, lack) * 1_000_000 // a for a, lack in lacks if lack > 0)

    def _put(self, name: str, part: Amounts) -> None:
        placed = place_on(self._empty[name], part)
        assert placed is not None
        self._empty[name] = self._empty[name].plus(placed, 1)

    def _spread(self, request: Request) -> set[str] | None:
        """As few nodes as it takes, or as many as it asks for."""
        counts = [request.spread] if request.spread else range(1, len(self._real) + 1)
        for count in counts:
            parts = shares_of(request.amounts, count)
            if parts is None or count > len(self._real):
                continue
            chosen: list[str] = []
            ranked: list[tuple[int, str]] = []
            for number, part in enumerate(parts):
                if not number or part != parts[number - 1]:
                    ranked = sorted(
                        (each for each in self._ranked(request, part) if each[1] not in chosen),
                        reverse=True,
                    )
                if not ranked:
                    break
                chosen.append(ranked.pop()[1])
            else:
                for name, part in zip(chosen, parts, strict=True):
                    self._put(name, part)
                return set(chosen)
        return None
