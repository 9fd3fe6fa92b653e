"""Prospects of a request that waits: who comes first, what it lacks, who is in the way, how long.

:func:`hold_up` says why it waits at this moment, which may be another reason than when it asked.
"""

from __future__ import annotations

from typing import Any

from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.quick import dataclass, replace
from ledger.requests import Amounts
from ledger.rules.answers import No
from ledger.rules.capacity import carries, fits_now, place_on, short_by
from ledger.rules.claims import barred_for, compete, kept_for
from ledger.rules.estimates import eta
from ledger.rules.explain import (
    blockers,
    eta_of_parts,
    must_wait,
    nearest_node,
    no_room,
    parts_lacking,
)
from ledger.rules.gangs import all_of, is_several, room_for, wants
from ledger.rules.quotas import quota_blocks, quota_over
from ledger.spaces import Space

NODES_NAMED = 6
"""How many of the nodes that are kept for a request are named."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """``ahead``: how many are served first. ``eta_ns`` (from now) is None where nothing tells, where
    others are served first, or where its own quota holds it up; ``basis`` says what it goes by.
    """

    ahead: int
    eta_ns: int | None
    basis: str | None
    shortfall: dict[str, Amounts]
    blockers: tuple[dict[str, Any], ...]


def prospect(book: Book, waiting: Allocation, now: int) -> Prospect:
    """What can be told of a waiting request at ``now``."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    assert space is not None
    ahead = space.line.ahead(waiting.id)
    if waiting.request.spread is not None:
        return _of_spread(book, space, waiting, ahead, now)
    node = nearest_node(space, waiting.request)
    if waiting.claim is not None:
        node = space.nodes.get(waiting.claim, node)
    if node is None:
        return Prospect(ahead, None, None, {}, ())
    missing = short_by(node, waiting.request.amounts)
    lacks = {node.name: missing} if missing else {}
    if len(waiting.claims) > 1:
        lacks = {name: lack for name, lack in kept_for(book, waiting).items() if lack}
    in_the_way = blockers(book, space, node.name, missing, waiting.tenant)
    estimate = None
    if ahead == 0 and waiting.gang is None and not quota_blocks(book, waiting):
        estimate = eta(book, space, node, waiting.request, now)
    eta_ns, basis = (None, None) if estimate is None else estimate
    return Prospect(ahead, eta_ns, basis, lacks, in_the_way)


def _of_spread(book: Book, space: Space, waiting: Allocation, ahead: int, now: int) -> Prospect:
    """What its parts lack, each on its own node: on those that are kept for it, or the nearest."""
    lacking = parts_lacking(space, waiting.request)
    lacks = {node.name: short_by(node, part) for node, part in lacking}
    if waiting.claims:
        lacks = {name: lack for name, lack in kept_for(book, waiting).items() if lack}
    in_the_way = _first_in_the_way(book, space, lacks, waiting.tenant)
    estimate = None
    if ahead == 0 and not waiting.claims and not quota_blocks(book, waiting):
        estimate = eta_of_parts(book, space, lacking, now)
    eta_ns, basis = (None, None) if estimate is None else estimate
    return Prospect(ahead, eta_ns, basis, lacks, in_the_way)


def _first_in_the_way(
    book: Book, space: Space, lacks: dict[str, Amounts], tenant: str
) -> tuple[dict[str, Any], ...]:
    """Who holds what is lacking on the first of some nodes."""
    for node, missing in lacks.items():
        return blockers(book, space, node, missing, tenant)
    return ()


# --- why it waits --------------------------------------------------------------------------------


def hold_up(book: Book, waiting: Allocation, now: int) -> No:
    """Why a request waits at ``now``: short by how much, who is in the way, what fits, what to do."""
    space = book.space_of(waiting.pool, waiting.request.parent)
    assert space is not None
    together = all_of(book, space, waiting)
    over = quota_over(book, waiting)
    if over is not None:
        return over
    parent = waiting.request.parent
    if parent is not None and book.allocations[parent].state != "active":
        return No(
            Reason.INSUFFICIENT_CAPACITY,
            f"{parent}, on which it draws, was asked to end",
            "ask again without it, or elsewhere",
        )
    first = _first_in_line(book, space, waiting)
    if first is not None:
        told = must_wait(book, space, waiting.request, first, waiting.tenant)
    elif _has_room(book, space, waiting):
        return No(
            Reason.RESERVED_FOR_WAITING,
            "there is room for it now, and it gets it in its turn with the next entry in the ledger",
            "`leasebook sweep` makes one",
        )
    elif waiting.claims:
        told = _still_taken(book, space, waiting)
    else:
        told = _no_room_for_all(book, space, together, waiting, now)
    smaller = ", or withdraw it and ask for what fits now" if told.fits_now else ""
    return replace(told, hint="wait on" + smaller)


def _has_room(book: Book, space: Space, waiting: Allocation) -> bool:
    """Whether it fits on nodes that are not kept from it."""
    barred = barred_for(book, space, wants(book, space, waiting), waiting)
    if is_several(waiting):
        return room_for(book, space, book.pools[waiting.pool], waiting, barred) is not None
    return any(
        place_on(node, waiting.request.amounts) is not None
        for node in space.nodes.values()
        if not node.cordoned and node.name not in barred and carries(node, waiting.request.select)
    )


def _first_in_line(book: Book, space: Space, waiting: Allocation) -> Allocation | None:
    """In strict order, the first that this one must not overtake, or None."""
    if book.pools[waiting.pool].policy.order != "fifo":
        return None
    wanted = wants(book, space, waiting)
    for other_id in space.waiting:
        other = book.allocations[other_id]
        if other_id == waiting.id or (waiting.gang is not None and other.gang == waiting.gang):
            break
        if compete(wants(book, space, other), wanted) and not quota_blocks(book, other):
            return other
    return None


def _still_taken(book: Book, space: Space, waiting: Allocation) -> No:
    """What is still held of the nodes that are kept for it."""
    lacks = {name: lack for name, lack in kept_for(book, waiting).items() if lack}
    node = None if is_several(waiting) else space.nodes.get(waiting.claims[0])
    free = {} if node is None else fits_now(node, waiting.request.amounts)
    nodes = ", ".join(waiting.claims[:NODES_NAMED])
    more = len(waiting.claims) - NODES_NAMED
    return No(
        Reason.INSUFFICIENT_CAPACITY,
        f"{nodes}{f' and {more} more' if more > 0 else ''} {'is' if len(waiting.claims) == 1 else 'are'}"
        " kept for it, but not free yet",
        shortfall=lacks,
        fits_now=free,
        blockers=_first_in_the_way(book, space, lacks, waiting.tenant),
    )


def _no_room_for_all(
    book: Book, space: Space, together: list[Allocation], waiting: Allocation, now: int
) -> No:
    """What it lacks; of requests that are granted together, what one of them lacks alone."""
    if len(together) == 1:
        return no_room(book, space, waiting.request, waiting.tenant, now)
    at_once = f"the {len(together)} requests of its batch are granted at once"
    for each in [waiting, *together]:
        told = no_room(book, space, each.request, waiting.tenant, now)
        if told.shortfall:
            which = "it" if each.id == waiting.id else each.id
            return replace(told, message=f"{at_once}, and for {which}: {told.message}")
    return No(
        Reason.INSUFFICIENT_CAPACITY,
        f"{at_once}, and {space.key} has no room for all of them now",
    )
