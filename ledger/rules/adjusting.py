"""Adjusting: holding more or less of what is held, on the same node and cards."""

from __future__ import annotations

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.nodes import Node
from ledger.requests import Amounts, Placement, Request
from ledger.rules.answers import No
from ledger.rules.capacity import short_by
from ledger.rules.claims import barred_for
from ledger.rules.explain import kept_for_others, must_wait, never_fits, no_room
from ledger.rules.quotas import over_quota
from ledger.rules.resizing import place_again
from ledger.rules.waiting import in_the_way
from ledger.spaces import Space


def adjustment(
    book: Book, allocation: Allocation, amounts: Amounts, now: int
) -> No | tuple[Amounts, tuple[Placement, ...]]:
    """The amounts and placements after an adjust, on the same node and cards; or why not.

    ``amounts`` names the resources that change; 0 gives a resource up.
    """
    wanted = {r: a for r, a in {**allocation.amounts, **amounts}.items() if a}
    more = {r: a - allocation.amounts.get(r, 0) for r, a in wanted.items()}
    more = {r: a for r, a in more.items() if a > 0}
    space = book.space_of(allocation.pool, allocation.request.parent)
    assert space is not None
    if not wanted:
        return No(Reason.INVALID, f"{allocation.id} would hold nothing", "release it instead")
    if len(allocation.placements) != 1:
        return No(
            Reason.INVALID,
            f"{allocation.id} stands on {len(allocation.placements)} nodes and cannot be adjusted",
            "release it and ask anew",
        )
    lent = book.lent.get(allocation.id)
    lending = None if lent is None else lent.nodes[allocation.placements[0].node]
    lent_use = {} if lending is None else lending.in_use
    for resource, amount in sorted(lent_use.items()):
        if amount > wanted.get(resource, 0):
            return No(
                Reason.INSUFFICIENT_CAPACITY,
                f"{amount} base units of {allocation.id}'s {resource} are lent to what draws on it",
                "let those end first",
                shortfall={allocation.id: {resource: amount - wanted.get(resource, 0)}},
            )
    node = space.nodes[allocation.placements[0].node]
    if more:
        refusal = _may_grow(book, space, allocation, wanted, more)
        if refusal is not None:
            return refusal
    old = allocation.placements[0]
    keep = None if lending is None else lending.cards_in_use
    placement = place_again(node, old, wanted, keep=keep)
    if placement is None:
        if not short_by(node, more):
            return No(
                Reason.INSUFFICIENT_CAPACITY,
                f"{allocation.id} would have to move: its cards have no room for more",
                "release it and ask anew, or ask for what fits on its cards",
            )
        request = Request(more, select=None)
        return no_room(book, _only(space, old.node, allocation.id), request, allocation.tenant, now)
    moved = None if lending is None else _lent_cards_gone(lending, placement)
    if moved is not None:
        return No(
            Reason.INSUFFICIENT_CAPACITY,
            f"{moved} of {allocation.id} is lent to what draws on it, and would not be its any more",
            "let those end first",
        )
    return wanted, (placement,)


def _lent_cards_gone(lending: Node, placement: Placement) -> str | None:
    """A card of which more is lent than the placement has, in words, or None."""
    for resource, used in lending.cards_in_use.items():
        has = (placement.devices or {}).get(resource, {})
        for card, amount in used.items():
            if amount > has.get(card, 0):
                return f"{resource} {card}"
    return None


def _may_grow(
    book: Book, space: Space, allocation: Allocation, wanted: Amounts, more: Amounts
) -> No | None:
    if book.pools[allocation.pool].closed:
        return No(
            Reason.NO_SUCH_POOL,
            f"pool {allocation.pool} is closed, and hands nothing out any more",
            "ask another pool, or open it again",
        )
    if allocation.request.parent is None:
        over = over_quota(book, allocation.tenant, allocation.holder, allocation.pool, more)
        if over is not None:
            return over
    elif book.allocations[allocation.request.parent].state != "active":
        return No(
            Reason.INSUFFICIENT_CAPACITY,
            f"{allocation.request.parent}, which {allocation.id} draws on, was asked to end and lends"
            " nothing more",
            "ask for less, or ask another pool",
        )
    only = _only(space, allocation.placements[0].node, allocation.id)
    impossible = never_fits(only, Request({r: wanted[r] for r in more}))
    if impossible is not None:
        return impossible
    node = only.nodes[allocation.placements[0].node]
    if node.cordoned:
        return No(
            Reason.INSUFFICIENT_CAPACITY,
            f"{node.name} is cordoned: nothing new lands there, nor does {allocation.id} grow there",
            f"uncordon it (`leasebook pool uncordon {node.name}`), or release {allocation.id} and ask"
            " anew",
        )
    first = in_the_way(book, space, more, book.pools[allocation.pool].policy.order)
    if first is not None:
        return must_wait(book, space, Request(more), first, allocation.tenant)
    if allocation.placements[0].node in barred_for(book, space, more):
        return kept_for_others(book, space, Request(more), allocation.tenant)
    return None


def _only(space: Space, node: str, without: str) -> Space:
    """One node of a space alone, and who else stands on it."""
    only = Space(space.key, {node: space.nodes[node]}, space.parent)
    only.standing[node] = {each: None for each in space.standing.get(node, ()) if each != without}
    return only
