"""Prospects of a request that waits: who comes first, what it lacks, who is in the way, how long."""

from __future__ import annotations

from typing import Any

from ledger.book import Allocation, Book
from ledger.quick import dataclass
from ledger.requests import Amounts
from ledger.rules.capacity import short_by
from ledger.rules.claims import kept_for, quota_blocks
from ledger.rules.estimates import eta
from ledger.rules.explain import blockers, eta_of_parts, nearest_node, parts_lacking
from ledger.spaces import Space


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
    in_the_way = blockers(book, space, node.name, waiting.tenant)
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
    in_the_way = blockers(book, space, next(iter(lacks)), waiting.tenant) if lacks else ()
    estimate = None
    if ahead == 0 and not waiting.claims and not quota_blocks(book, waiting):
        estimate = eta_of_parts(book, space, lacking, now)
    eta_ns, basis = (None, None) if estimate is None else estimate
    return Prospect(ahead, eta_ns, basis, lacks, in_the_way)
