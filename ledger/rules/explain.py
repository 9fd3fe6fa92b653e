"""Explaining a lack of capacity: short by how much on which node, who is in the way, what fits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ledger.amounts import format_amount
from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.nodes import Node
from ledger.requests import Amounts, Request
from ledger.rules import tables
from ledger.rules.answers import No
from ledger.rules.capacity import carries, fits_empty, fits_now, short_by
from ledger.rules.estimates import eta
from ledger.rules.placement import could_ever_fit, shares_of
from ledger.spaces import Space

BLOCKERS_NAMED = 10
NODES_EXAMINED = 2_000
TABLED_BELOW = 2**43
"""Amounts that a table's 64 bits take when they are scaled to millionths."""


def nearest_node(space: Space, request: Request) -> Node | None:
    """The node on which least is missing, as a share of what was asked; None where none is open."""
    table = tables.of(space)
    if table is not None and all(amount < TABLED_BELOW for amount in request.amounts.values()):
        return table.nearest(request.select, request.amounts, NODES_EXAMINED)
    best: tuple[int, str] | None = None
    chosen = None
    for _, node in zip(range(NODES_EXAMINED), space.nodes.values(), strict=False):
        if node.cordoned or not carries(node, request.select):
            continue
        missing = short_by(node, request.amounts)
        share = sum(lack * 1_000_000 // request.amounts[r] for r, lack in missing.items())
        if best is None or (share, node.name) < best:
            best, chosen = (share, node.name), node
    return chosen


def parts_lacking(space: Space, request: Request) -> list[tuple[Node, Amounts]]:
    """Of a spread, the nearest nodes that have no room for their even part, and that part of each.

    Over as few nodes as could take it with nothing in use, where it names no number. Empty where
    enough nodes have room. Where too few are open, all that are open.
    """
    open_ = [
        node
        for _, node in zip(range(NODES_EXAMINED), space.nodes.values(), strict=False)
        if not node.cordoned and carries(node, request.select)
    ]
    parts: list[Amounts] | None = None
    for count in [request.spread] if request.spread else range(1, len(open_) + 1):
        parts = shares_of(request.amounts, count) or parts
        if parts is not None and sum(fits_empty(node, parts[0]) for node in open_) >= count:
            break
    parts = parts or [request.amounts]

    def lack(node: Node) -> tuple[int, str]:
        missing = short_by(node, parts[0])
        return sum(m * 1_000_000 // parts[0][r] for r, m in missing.items()), node.name

    nearest = zip(sorted(open_, key=lack), parts, strict=False)
    return [(node, part) for node, part in nearest if short_by(node, part)]


def holding_on(book: Book, space: Space, node: str, resources: Collection[str]) -> list[Allocation]:
    """Who holds any of these resources on a node of a space, the longest-held first."""
    there = [
        book.allocations[each] for each in space.standing.get(node, ()) if each in book.allocations
    ]
    holding = [
        a
        for a in there
        if any(p.node == node and any(p.amounts.get(r) for r in resources) for p in a.placements)
    ]
    return sorted(holding, key=lambda a: (a.granted_at or a.requested_at, a.position))


def blockers(
    book: Book, space: Space, node: str, lacking: Collection[str], tenant: str
) -> tuple[dict[str, Any], ...]:
    """Who holds on a node what is lacking there, the longest-held first; other tenants without names."""
    there = holding_on(book, space, node, lacking)[:BLOCKERS_NAMED]
    return tuple(blocker(allocation, tenant) for allocation in there)


def blocker(allocation: Allocation, tenant: str) -> dict[str, Any]:
    """An allocation in the way, as it stands in a refusal: another tenant's shows amounts only.

    One that waits says so (``state``), and which ``nodes`` are kept for it; ``since`` is when it asked.
    """
    shown: dict[str, Any] = {"amounts": allocation.amounts, "since": allocation.granted_at}
    if allocation.state == "waiting":
        shown |= {"since": allocation.requested_at, "state": "waiting"}
    if allocation.tenant == tenant:
        if allocation.claims:
            shown["nodes"] = list(allocation.claims)
        shown |= {"allocation": allocation.id, "holder": allocation.holder}
        if allocation.task is not None:
            shown["task"] = allocation.task
        if allocation.lease_until is not None:
            shown["expires_at"] = allocation.lease_until
    return shown


def never_fits(space: Space, request: Request) -> No | None:
    """Why a request can never be met by this space however long it waits, or None."""
    if could_ever_fit(space.nodes.values(), request):
        return None
    known = {resource for node in space.nodes.values() for resource in node.capacity}
    missing = sorted(request.amounts.keys() - known)
    if missing:
        return No(
            Reason.EXCEEDS_POOL,
            f"{space.key} has no {', '.join(missing)}",
            f"it has {', '.join(sorted(known)) or 'nothing'}",
            shortfall={space.key: {r: request.amounts[r] for r in missing}},
        )
    largest: dict[str, int] = {}
    for node in space.nodes.values():
        if carries(node, request.select):
            for resource, amount in node.capacity.items():
                largest[resource] = max(largest.get(resource, 0), amount)
    if not largest:
        return No(
            Reason.EXCEEDS_POOL,
            f"no node of {space.key} carries the wanted labels {request.select}",
            "see `leasebook pool show` for the labels there are",
        )
    if request.spread is not None:
        over = f"over {request.spread} nodes" if request.spread else "over its nodes"
        return No(
            Reason.EXCEEDS_POOL,
            f"{space.key} cannot take this in even parts {over}, even with nothing in use",
            "spread over fewer nodes, or ask for amounts that divide among them",
        )
    short = {r: a - largest.get(r, 0) for r, a in request.amounts.items() if a > largest.get(r, 0)}
    return No(
        Reason.EXCEEDS_POOL,
        f"no single node of {space.key} is large enough for this, even with nothing in use",
        "ask for less, or enlarge a node",
        shortfall={space.key: short} if short else {},
        fits_now={r: min(a, largest[r]) for r, a in request.amounts.items() if largest.get(r)},
    )


def no_room(book: Book, space: Space, request: Request, tenant: str, now: int) -> No:
    """The refusal for want of capacity now."""
    if request.spread is not None:
        return _no_room_for_parts(book, space, request, tenant, now)
    node = nearest_node(space, request)
    if node is None:
        return No(
            Reason.INSUFFICIENT_CAPACITY,
            f"every node of {space.key} that could take this is cordoned",
            "wait, or uncordon a node",
        )
    missing = short_by(node, request.amounts)
    if not missing:
        return kept_for_others(book, space, request, tenant)
    if space.parent is None and book.pools[space.key].consumable:
        return _not_left(book, space, node, request, tenant, now)
    if node.outside and not short_by(node.seen(outside={}), request.amounts):
        return No(
            Reason.UNMANAGED_USE,
            f"others use what this needs on {node.name} without the ledger:"
            f" {used_outside(node, missing)}",
            "stop them (`leasebook who` helps to find them), or wait for it (`--wait`)",
            shortfall={node.name: missing},
            fits_now=fits_now(node, request.amounts),
        )
    others = used_outside(node, missing)
    return No(
        Reason.INSUFFICIENT_CAPACITY,
        f"{space.key} has no room for this now; {node.name} is the nearest"
        + (f"; others use {others} of it without the ledger" if others else ""),
        "wait for it (`--wait`), ask for what fits now, or release something"
        + _when(eta(book, space, node, request, now)),
        shortfall={node.name: missing},
        fits_now=fits_now(node, request.amounts),
        blockers=blockers(book, space, node.name, missing, tenant),
    )


def used_outside(node: Node, resources: Iterable[str]) -> str:
    """What others use of these resources without the ledger, and whose it is where that was seen."""
    words = []
    for resource in sorted(resources):
        amount = node.outside.get(resource)
        if amount:
            whose = node.outside_basis.get(resource)
            used = f"{resource}={format_amount(resource, amount)}"
            words.append(f"{used} ({whose})" if whose else used)
    return "; ".join(words)


def _when(estimate: tuple[int, str] | None) -> str:
    if estimate is None:
        return ""
    seconds = max(1, estimate[0] // 1_000_000_000)
    return f"; it may fit in {seconds} s, going by {estimate[1]}"


def _no_room_for_parts(book: Book, space: Space, request: Request, tenant: str, now: int) -> No:
    """The refusal of a spread for want of capacity now: what its parts lack, each on its node."""
    lacking = parts_lacking(space, request)
    hint = "wait for it (`--wait`), or spread over another number of nodes"
    few = f"{space.key} has not enough nodes with room for an even part of this now"
    if not lacking:
        return No(Reason.INSUFFICIENT_CAPACITY, few, hint)
    nearest, part = lacking[0]
    return No(
        Reason.INSUFFICIENT_CAPACITY,
        f"{few}; {nearest.name} is the next",
        hint + _when(eta_of_parts(book, space, lacking, now)),
        shortfall={node.name: short_by(node, each) for node, each in lacking},
        fits_now=fits_now(nearest, part),
        blockers=blockers(book, space, nearest.name, short_by(nearest, part), tenant),
    )


def eta_of_parts(
    book: Book, space: Space, lacking: list[tuple[Node, Amounts]], now: int
) -> tuple[int, str] | None:
    """As :func:`~ledger.rules.estimates.eta`, for parts that each wait for a node of their own."""
    found = [eta(book, space, node, Request(part), now) for node, part in lacking]
    known = [each for each in found if each is not None]
    return max(known) if known and len(known) == len(found) else None


def _not_left(book: Book, space: Space, node: Node, request: Request, tenant: str, now: int) -> No:
    """The refusal of what is not left of a budget."""
    missing = short_by(node, request.amounts)
    when = _when(eta(book, space, node, request, now))
    if book.pools[space.key].next_refill is None:
        when = f"; it is not refilled: enlarge it with `leasebook pool resize {space.key}`"
    return No(
        Reason.INSUFFICIENT_CAPACITY,
        f"not enough of {space.key} is left for this: the rest is spent or reserved",
        "wait for it (`--wait`), or ask for what fits now" + when,
        shortfall={node.name: missing},
        fits_now=fits_now(node, request.amounts),
        blockers=blockers(book, space, node.name, missing, tenant),
    )


def kept_for_others(book: Book, space: Space, request: Request, tenant: str) -> No:
    """The refusal for what is free but kept for requests that wait."""
    claimants = [book.allocations[each] for each in sorted(set(space.claims.values()))]
    wanted = [a for a in claimants if not a.request.amounts.keys().isdisjoint(request.amounts)]
    wanted.sort(key=lambda a: a.position)
    mine = [f"{a.id} of {a.holder}" for a in wanted[:BLOCKERS_NAMED] if a.tenant == tenant]
    return No(
        Reason.RESERVED_FOR_WAITING,
        f"what is free in {space.key} is kept for requests that came first"
        + (f": {', '.join(mine)}" if mine else ""),
        "wait for it (`--wait`)",
        blockers=tuple(blocker(a, tenant) for a in wanted[:BLOCKERS_NAMED]),
    )


def must_wait(book: Book, space: Space, request: Request, first: Allocation, tenant: str) -> No:
    """The refusal for what is free but kept for those who wait."""
    node = nearest_node(space, request)
    missing = {} if node is None else short_by(node, request.amounts)
    holding = () if node is None else blockers(book, space, node.name, missing, tenant)
    who = f"{first.id} of {first.holder}" if first.tenant == tenant else "another tenant's request"
    return No(
        Reason.RESERVED_FOR_WAITING,
        f"{who} waits for {space.key} and comes first",
        "wait for it (`--wait`)",
        blockers=(blocker(first, tenant), *holding),
    )
