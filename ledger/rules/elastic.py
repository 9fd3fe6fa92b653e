"""Elastic requests (``cpu=2..8``): granted what is free in their range, stretched and shrunk later.

Nothing is taken below the least that was asked for, and nothing is stretched while somebody waits
for what it would take: for the capacity, or for a part of a quota that they have in common. Every
change is an ``adjusted`` event by the ledger, which the holder can watch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ledger.advance import LEDGER
from ledger.book import Allocation, Book
from ledger.events import Adjusted
from ledger.nodes import Node
from ledger.requests import CARD, CARD_RESOURCES, Amounts, Placement
from ledger.rules.answers import Draft
from ledger.rules.capacity import fit_on, free, left, place_on, short_by
from ledger.rules.placement import Wish, eligible
from ledger.rules.quotas import headroom, in_common, over_quota, quota_blocks
from ledger.rules.resizing import place_again
from ledger.spaces import Space

SHRUNK_MAX = 60
"""The most allocations that are shrunk for one request."""


def _stretched(node: Node, on: Placement, most: Amounts) -> Amounts:
    """The amounts up to ``most`` that the node could give to what stands ``on`` it."""
    wanted = {}
    for resource, amount in on.amounts.items():
        more = max(0, min(most.get(resource, amount) - amount, free(node, resource)))
        if more and resource in CARD_RESOURCES:
            more = _more_cards(node, on, resource, more)
        wanted[resource] = amount + more
    return wanted


def _more_cards(node: Node, on: Placement, resource: str, more: int) -> int:
    """How much of ``more`` cards give without a move: a share what is free on its card, up to all of
    that card, and whole cards other whole ones.
    """
    cards, used = node.cards.get(resource, {}), node.cards_in_use.get(resource, {})
    own = (on.devices or {}).get(resource, {})
    if not own.keys() <= cards.keys():
        # A resize took one away: no more can be had without a move.
        return 0
    amount = on.amounts[resource]
    filled = 0
    if amount < CARD:
        filled = min(more, *(cards[card] - used.get(card, 0) for card in own))
        if amount + filled < CARD:
            return filled
    whole = sum(1 for card, size in cards.items() if size == CARD and not used.get(card))
    return filled + min((more - filled) // CARD, whole) * CARD


def stretch(
    book: Book, space: Space, asking: Allocation, placements: tuple[Placement, ...]
) -> tuple[Placement, ...]:
    """A grant's placements, stretched towards the most that is welcome; others as they are.

    Nothing is stretched while somebody else waits for what it would take.
    """
    most = asking.request.most
    if most is None or len(placements) != 1:
        return placements
    node = space.nodes[placements[0].node].plus(placements[0], 1)
    wanted = _stretched(node, placements[0], _within_quota(book, asking, {}, most))
    has = placements[0].amounts
    grows = [r for r in has if wanted[r] > has[r]]
    awaited, held_up = _awaited(book, space, grows, asking.id) if grows else (set[str](), [])
    for resource in grows:
        if resource in awaited or _takes_from(book, asking, resource, held_up):
            wanted[resource] = has[resource]
    if _over_quota(book, asking, wanted):
        return placements
    larger = place_again(node, placements[0], wanted)
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


def _awaited(
    book: Book, space: Space, resources: Collection[str], asking: str | None = None
) -> tuple[set[str], list[Allocation]]:
    """Those of the resources that somebody other than ``asking`` waits for; and, of those who wait for
    the others but are held up by a quota of their own, one for each that are alike.
    """
    own: Collection[str] = ()
    if asking is not None and asking in space.waiting:
        own = book.allocations[asking].request.amounts.keys()
    kinds = [kind for kind, count in space.kinds.items() if count > (kind == own)]
    awaited = {resource for resource in resources if any(resource in kind for kind in kinds)}
    if not awaited or not book.quotas or space.parent is not None:
        return awaited, []
    unsettled = set(awaited)
    seen: set[object] = set()
    verdicts: dict[str, bool] = {}
    held_up = []
    for waiting_id in space.waiting:
        waiting = book.allocations[waiting_id]
        amounts = waiting.request.amounts
        if unsettled.isdisjoint(amounts) or waiting_id == asking:
            continue
        # Those who are alike are asked about once, since this may have to look at all who wait.
        like = (waiting.tenant, waiting.holder, waiting.gang, *amounts.items())
        if like in seen:
            continue
        seen.add(like)
        place = waiting.gang or waiting_id
        if place not in verdicts:
            verdicts[place] = quota_blocks(book, waiting)
        if verdicts[place]:
            held_up.append(waiting)
            continue
        unsettled.difference_update(amounts)
        if not unsettled:
            break
    return awaited - unsettled, held_up


def _takes_from(book: Book, a: Allocation, resource: str, held_up: list[Allocation]) -> bool:
    """Whether what one gets of a resource is missing in a quota that holds up somebody else too."""
    return any(
        resource in each.request.amounts and in_common(book, a, each, resource) for each in held_up
    )


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
        smaller = place_again(node, a.placements[0], a.request.amounts)
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
    to their least. Nobody is shrunk in vain.
    """
    asked: Amounts = {}
    for part in parts:
        for resource, amount in part.items():
            asked[resource] = asked.get(resource, 0) + amount
    for to_least in (False, True):
        smaller = node
        shrunk: _Shrunk = []
        for a in _most_stretched(there):
            missing = _needed(smaller, asked)
            if fits(smaller, parts) if to_least else not missing:
                break
            wanted = a.request.amounts if to_least else _without(a, missing)
            placed = place_again(smaller, a.placements[0], wanted)
            if wanted != a.amounts and placed is not None:
                smaller = smaller.plus(a.placements[0], -1).plus(placed, 1)
                shrunk.append((a, placed))
        if fits(smaller, parts):
            if not CARD_RESOURCES.isdisjoint(asked):
                smaller, shrunk = _not_in_vain(
                    node, smaller, shrunk, lambda node: fits(node, parts)
                )
            for a, placed in shrunk:
                adjusted = Adjusted(
                    placed.amounts, a.amounts, (placed,), LEDGER, "shrunk to make room"
                )
                draft.on(a, adjusted)
            return smaller
    return None


_Shrunk = list[tuple[Allocation, Placement]]
"""Who is shrunk, in that order, and what each holds then."""


def _not_in_vain(
    node: Node, smaller: Node, shrunk: _Shrunk, enough: Callable[[Node], bool]
) -> tuple[Node, _Shrunk]:
    """The node, and those who are shrunk on it, without those whose cards do not help: for that the
    card has to be the right one. Those who are the most stretched give back first.
    """
    needed = []
    for a, placed in reversed(shrunk):
        as_it_was = smaller.plus(placed, -1).plus(a.placements[0], 1)
        if enough(as_it_was):
            smaller = as_it_was
        else:
            needed.append((a, placed.amounts))
    kept: _Shrunk = []
    for a, amounts in reversed(needed):
        # Anew, since a placement says what the node has in use after it.
        again = place_again(node, a.placements[0], amounts)
        assert again is not None
        node = node.plus(a.placements[0], -1).plus(again, 1)
        kept.append((a, again))
    return node, kept


def _without(a: Allocation, missing: Amounts) -> Amounts:
    """What an elastic allocation has left when it gives back what is missing, as far as it can."""
    wanted = {}
    for resource, amount in a.amounts.items():
        excess = amount - a.request.amounts[resource]
        give = min(missing.get(resource, 0), excess)
        if resource in CARD_RESOURCES and amount > CARD:
            # Of several cards only whole ones can be given back; of one card any part of it.
            give = min(-(-give // CARD) * CARD, excess)
        wanted[resource] = amount - give
    return wanted


def next_growth(book: Book, space: Space, now: int) -> Draft | None:
    """Stretch one elastic allocation into what is free, or None. Who waits for it comes first."""
    if not space.elastic or (space.parent is None and book.pools[space.key].closed):
        return None
    awaited: dict[str, bool] = {}
    held_up: list[Allocation] = []
    for a in stretchy(book, space):
        node = space.nodes[a.placements[0].node]
        most = a.request.most
        if most is None or node.cordoned:
            continue
        most = _within_quota(book, a, a.amounts, most)
        wanted = _stretched(node, a.placements[0], most)
        grows = [r for r, amount in wanted.items() if amount > a.amounts[r]]
        # Only what could grow is asked about: to answer that, all who wait may have to be looked at.
        new = [r for r in grows if r not in awaited]
        if new:
            found, blocked = _awaited(book, space, new)
            awaited |= {r: r in found for r in new}
            held_up += blocked
        for resource in grows:
            if awaited[resource] or _takes_from(book, a, resource, held_up):
                wanted[resource] = a.amounts[resource]
        if wanted == a.amounts:
            continue
        more = {r: v - a.amounts[r] for r, v in wanted.items() if v > a.amounts[r]}
        if _over_quota(book, a, more):
            continue
        larger = place_again(node, a.placements[0], wanted)
        if larger is not None:
            draft = Draft(book, now)
            draft.on(a, Adjusted(wanted, a.amounts, (larger,), LEDGER, "stretched"))
            return draft
    return None
