"""Clearing: making room for a gang or a spread, on several nodes at once.

As for a single request: first elastic allocations are shrunk, then, where the policy allows it, others
of a lower priority are sent away. All that is needed is done in one step, or nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from ledger.book import Allocation, Book, Pool
from ledger.mix import Mix
from ledger.nodes import Node
from ledger.quick import replace
from ledger.requests import PRIORITIES, Amounts, Request
from ledger.rules.answers import Draft
from ledger.rules.elastic import shrink_on, shrunk_to_least, stretchy
from ledger.rules.gangs import all_of, grant, total
from ledger.rules.keeping import Nearest, missing_on, plan_on
from ledger.rules.packing import STEPS_NOW, Packed, together
from ledger.rules.placement import Wish
from ledger.rules.preemption import VICTIMS_MAX, Senders, ask, fewest, will_go, without
from ledger.spaces import Space

_NO_MIX = Mix()


def make_room(
    book: Book, space: Space, pool: Pool, first: Allocation, barred: Collection[str], now: int
) -> Draft | None:
    """Shrink others and grant, or send others away and claim their nodes; None where neither helps."""
    draft = _shrink(book, space, pool, first, barred, now)
    return draft or _send_away(book, space, pool, first, barred, now)


def _open(space: Space, first: Allocation, barred: Collection[str]) -> list[Node]:
    """The nodes on which room may be made for it: nobody else's claim is on them."""
    return [
        node
        for name, node in space.nodes.items()
        if not node.cordoned and name not in barred and space.claims.get(name, first.id) == first.id
    ]


def _wishes(book: Book, space: Space, first: Allocation) -> list[Wish]:
    return [Wish(each.request, "first_fit") for each in all_of(book, space, first)]


def _parts(packed: Packed) -> dict[str, list[Amounts]]:
    """Node → what is placed there."""
    parts: dict[str, list[Amounts]] = {}
    for placements in packed:
        for p in placements:
            parts.setdefault(p.node, []).append(p.amounts)
    return parts


def _shrink(
    book: Book, space: Space, pool: Pool, first: Allocation, barred: Collection[str], now: int
) -> Draft | None:
    if not space.elastic:
        return None
    nodes = {node.name: node for node in _open(space, first, barred)}
    there = {name: stretchy(book, space, name) for name in nodes}
    least = {name: shrunk_to_least(node, there[name]) for name, node in nodes.items()}
    packed = together(Space(space.key, least), _NO_MIX, _wishes(book, space, first), STEPS_NOW)
    if packed is None:
        return None
    draft = Draft(book, now)
    for name, parts in sorted(_parts(packed).items()):
        # Where shrinking is not enough, it shows below: then nothing is shrunk at all.
        nodes[name] = shrink_on(draft, nodes[name], there[name], parts, _takes) or nodes[name]
    there_now = _of(space, [nodes[name] for name in _parts(packed)])
    again = together(there_now, _NO_MIX, _wishes(book, space, first), STEPS_NOW)
    return None if again is None else grant(book, space, pool, first, again, draft)


def _takes(node: Node, parts: list[Amounts], steps: int = STEPS_NOW) -> bool:
    """Whether a node takes all of these, in whatever order that needs."""
    wishes = [Wish(Request(part), "first_fit") for part in parts]
    return together(Space(node.name, {node.name: node}), _NO_MIX, wishes, steps) is not None


def _send_away(
    book: Book, space: Space, pool: Pool, first: Allocation, barred: Collection[str], now: int
) -> Draft | None:
    """Ask those to go who have a lower priority than all of it, or hold what its tenant has lent, on as
    many nodes as it needs.
    """
    may_preempt = pool.policy.preemption == "lower_priority" or bool(book.cohorts)
    if first.request.parent is not None or pool.consumable or not may_preempt:
        return None
    may = Senders(book, pool, _as_one(book, space, first))
    wishes = _wishes(book, space, first)
    leaving: dict[str, Node] = {}
    emptied: dict[str, Node] = {}
    active: dict[str, list[Allocation]] = {}
    for node in _open(space, first, barred):
        name = node.name
        there = [book.allocations[each] for each in space.standing.get(name, ())]
        for a in there:
            if a.state == "ending" and (name in first.claims or will_go(a)):
                node = without(node, a)
        active[name] = [a for a in there if a.state == "active" and len(a.placements) == 1]
        leaving[name] = emptied[name] = node
        for a in may.choose(active[name]):
            emptied[name] = without(emptied[name], a)
    kept = [leaving[name] for name in first.claims if name in leaving]
    if kept and together(_of(space, kept), _NO_MIX, wishes, STEPS_NOW) is not None:
        # Those who are going already are enough.
        return None
    names = Nearest([*leaving.values()], emptied).choose([w.request for w in wishes], space.totals)
    empty = _of(space, [emptied[name] for name in names or ()])
    packed = None if names is None else together(empty, _NO_MIX, wishes, STEPS_NOW)
    if packed is None:
        return None
    victims: list[Allocation] = []
    for name, parts in sorted(_parts(packed).items()):
        if _takes(leaving[name], parts):
            continue
        chosen = None
        for steps in (0, STEPS_NOW):
            fits = partial(_takes, parts=parts, steps=steps)
            chosen = chosen or fewest(leaving[name], may.choose(active[name], victims), fits)
        if chosen is None:
            return None
        for a in chosen:
            leaving[name] = without(leaving[name], a)
        victims += chosen
    return _asked(book, space, pool, first, victims, [leaving[n] for n in _parts(packed)], now)


def _as_one(book: Book, space: Space, first: Allocation) -> Allocation:
    """All that waits in one place as one that asks: for the sum, with the lowest of their priorities."""
    gang = all_of(book, space, first)
    lowest = min(gang, key=lambda a: PRIORITIES.index(a.request.priority))
    return replace(lowest, request=replace(lowest.request, amounts=total(book, first)))


def _of(space: Space, nodes: list[Node]) -> Space:
    return Space(space.key, {node.name: node for node in sorted(nodes, key=lambda n: n.name)})


def _asked(
    book: Book,
    space: Space,
    pool: Pool,
    first: Allocation,
    victims: list[Allocation],
    nodes: list[Node],
    now: int,
) -> Draft | None:
    """The draft that asks them to go and keeps the nodes, where that is sure to be enough."""
    wishes = _wishes(book, space, first)
    names = sorted(node.name for node in nodes)
    plan = plan_on(space, names, [wish.request for wish in wishes])
    enough = together(_of(space, nodes), _NO_MIX, wishes, STEPS_NOW)
    nothing_new = not victims and tuple(names) == first.claims
    if plan is None or enough is None or nothing_new or len(victims) > VICTIMS_MAX:
        return None
    lacks = missing_on(space, plan)
    kept = {name: lacks.get(name, {}) for name in names}
    return ask(book, pool, first, kept, victims, now)
