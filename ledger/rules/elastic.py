"""Elastic requests (``cpu=2..8``): granted what is free in their range, stretched and shrunk later.

Nothing is taken below the least that was asked for, and nothing is stretched while somebody waits
for what it would take. Every change is an ``adjusted`` event by the ledger, which the holder can watch.
"""

from __future__ import annotations

from collections.abc import Callable

from ledger.advance import LEDGER
from ledger.book import Allocation, Book
from ledger.events import Adjusted
from ledger.nodes import Node
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Placement
from ledger.rules.answers import Draft
from ledger.rules.capacity import fit_on, free, left, place_on, short_by
from ledger.rules.placement import Wish, eligible
from ledger.rules.quotas import headroom, over_quota
from ledger.rules.resizing import place_again
from ledger.spaces import Space

SHRUNK_MAX = 60
"""The most allocations that are shrunk for one request."""


def _stretched(node: Node, has: Amounts, most: Amounts) -> Amounts:
    """The amounts up to ``most`` that the node could give, cards in whole cards."""
    wanted = {}
    for resource, amount in has.items():
        more = min(most.get(resource, amount) - amount, free(node, resource))
        if resource in CARD_RESOURCES:
            more = more // CARD * CARD if amount >= CARD else 0
        wanted[resource] = amount + max(0, more)
    return wanted


def stretch(
    book: Book, space: Space, asking: Allocation, placements: tuple[Placement, ...]
) -> tuple[Placement, ...]:
    """A grant's placements, stretched towards the most that is welcome; others as they are.

    Nothing is stretched while somebody else waits for what it would take.
    """
    most = asking.request.most
    if most is None or len(placements) != 1:
        return placements
    most = {r: amount for r, amount in most.items() if not _others(book, space, asking.id, r)}
    node = space.nodes[placements[0].node].plus(placements[0], 1)
    wanted = _stretched(node, placements[0].amounts, _within_quota(book, asking, {}, most))
    if _over_quota(book, asking, wanted):
        return placements
    larger = place_again(node, placements[0], wanted, shrinking=False)
    return placements if larger is None else (larger,)


def _within_quota(book: Book, a: Allocation, counted: Amounts, most: Amounts) -> Amounts:
    """The most that quotas allow, where ``counted`` is what counts as held of it already."""
    if a.request.parent is not None or not book.quotas:
        return most
    allowed = {}
    for resource, amount in most.items():
        room = headroom(book, a.tenant, a.holder, a.pool, resource)
        allowed[resource] = amount if room is None else min(amount, counted.get(resource, 0) + room)
    return allowed


def _over_quota(book: Book, a: Allocation, more: Amounts) -> bool:
    if a.request.parent is not None:
        return False
    return over_quota(book, a.tenant, a.holder, a.pool, more) is not None


def _others(book: Book, space: Space, asking: str, resource: str) -> bool:
    """Whether somebody else waits for a resource."""
    own = book.allocations[asking].request.amounts.keys() if asking in space.waiting else ()
    return any(count > (kind == own) for kind, count in space.kinds.items() if resource in kind)


def stretchy(book: Book, space: Space, node: str | None = None) -> list[Allocation]:
    """The allocations that may grow and shrink, of all nodes or of one, by arrival."""
    found = [book.allocations[each] for each in space.elastic]
    active = [
        a for a in found if a.state == "active" and len(a.placements) == 1 and not _lends(book, a)
    ]
    if node is not None:
        active = [a for a in active if a.placements[0].node == node]
    return sorted(active, key=lambda a: a.position)


def _lends(book: Book, a: Allocation) -> bool:
    """Whether somebody draws on an allocation, or waits to: then its size stays as it is."""
    lent = book.lent.get(a.id)
    return lent is not None and bool(lent.standing or lent.waiting)


def make_room(book: Book, space: Space, draft: Draft, wish: Wish) -> Placement | None:
    """Shrink elastic allocations of one node until a wish fits there; its placement, or None.

    Takes the first node, in the pool's order, where shrinking is enough; from the most stretched
    first, no more than is needed. Drafts the ``adjusted`` events.
    """
    if not space.elastic or wish.request.spread is not None:
        return None
    amounts = wish.request.amounts
    for node in eligible(space.nodes.values(), wish):
        missing = _needed(node, amounts)
        excess: Amounts = {}
        there = stretchy(book, space, node.name)
        for a in there:
            for resource, amount in a.amounts.items():
                over = amount - a.request.amounts[resource]
                excess[resource] = excess.get(resource, 0) + over
        if not missing or any(lack > excess.get(r, 0) for r, lack in missing.items()):
            continue
        shrunk = shrink_on(draft, node, there, [amounts])
        if shrunk is not None:
            return place_on(shrunk, amounts)
    return None


def _needed(node: Node, asked: Amounts) -> Amounts:
    """Resource → what has to be given back on a node for ``asked`` to fit there.

    On a node that holds more than it has, that is more than what is missing of what is asked.
    """
    missing = short_by(node, asked)
    over = {r: amount - left(node, r) for r, amount in asked.items()}
    needed = {r: max(missing.get(r, 0), lack) for r, lack in over.items()}
    return {r: lack for r, lack in needed.items() if lack > 0}


def _most_stretched(there: list[Allocation]) -> list[Allocation]:
    """Those that are shrunk for one request at most, in the order in which they are."""

    def excess(a: Allocation) -> int:
        return sum(v - a.request.amounts[r] for r, v in a.amounts.items())

    return sorted(there, key=lambda a: (-excess(a), a.position))[:SHRUNK_MAX]


def shrunk_to_least(node: Node, there: list[Allocation]) -> Node:
    """A node with all that is stretched there at its least."""
    return at_least(node, there)[0]


def at_least(node: Node, there: list[Allocation]) -> tuple[Node, dict[str, Placement]]:
    """A node with all that is stretched there at its least, and id → what each holds there then."""
    least: dict[str, Placement] = {}
    for a in _most_stretched(there):
        smaller = place_again(node, a.placements[0], a.request.amounts, shrinking=True)
        if smaller is not None:
            node = node.plus(a.placements[0], -1).plus(smaller, 1)
            least[a.id] = smaller
    return node, least


def shrink_on(
    draft: Draft,
    node: Node,
    there: list[Allocation],
    parts: list[Amounts],
    fits: Callable[[Node, list[Amounts]], bool] = fit_on,
) -> Node | None:
    """Shrink those on a node, most stretched first, until all ``parts`` fit; the node then, or None.

    By no more than is missing; where that is not enough, as with shares that need a card each, down
    to their least. Undrafts what was in vain.
    """
    asked: Amounts = {}
    for part in parts:
        for resource, amount in part.items():
            asked[resource] = asked.get(resource, 0) + amount
    kept, position = len(draft.events), draft.position
    for to_least in (False, True):
        smaller = node
        for a in _most_stretched(there):
            missing = _needed(smaller, asked)
            if fits(smaller, parts) if to_least else not missing:
                break
            wanted = a.request.amounts if to_least else _without(a, missing)
            placed = place_again(smaller, a.placements[0], wanted, shrinking=True)
            if wanted != a.amounts and placed is not None:
                smaller = smaller.plus(a.placements[0], -1).plus(placed, 1)
                draft.on(a, Adjusted(wanted, a.amounts, (placed,), LEDGER, "shrunk to make room"))
        if fits(smaller, parts):
            return smaller
        del draft.events[kept:]
        draft.position = position
    return None


def _without(a: Allocation, missing: Amounts) -> Amounts:
    """What an elastic allocation has left when it gives back what is missing, as far as it can."""
    wanted = {}
    for resource, amount in a.amounts.items():
        excess = amount - a.request.amounts[resource]
        give = min(missing.get(resource, 0), excess)
        if resource in CARD_RESOURCES and give:
            give = min(-(-give // CARD) * CARD, excess)
        wanted[resource] = amount - give
    return wanted


def next_growth(book: Book, space: Space, now: int) -> Draft | None:
    """Stretch one elastic allocation into what is free, or None. Who waits for it comes first."""
    if not space.elastic or (space.parent is None and book.pools[space.key].closed):
        return None
    wanted_by_others = {resource for kind in space.kinds for resource in kind}
    for a in stretchy(book, space):
        node = space.nodes[a.placements[0].node]
        most = a.request.most
        if most is None or node.cordoned:
            continue
        room = {r: m for r, m in most.items() if r not in wanted_by_others}
        room = _within_quota(book, a, a.amounts, room)
        wanted = _stretched(node, a.amounts, room)
        if wanted == a.amounts:
            continue
        more = {r: v - a.amounts[r] for r, v in wanted.items() if v > a.amounts[r]}
        if _over_quota(book, a, more):
            continue
        larger = place_again(node, a.placements[0], wanted, shrinking=False)
        if larger is not None:
            draft = Draft(book, now)
            draft.on(a, Adjusted(wanted, a.amounts, (larger,), LEDGER, "stretched"))
            return draft
    return None
