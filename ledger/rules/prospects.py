"""Prospects of a request that waits: who comes first, what it lacks, who is in the way, how long."""

from __future__ import annotations

from typing import Any

from ledger.book import Allocation, Book
from ledger.quick import dataclass
from ledger.requests import Amounts
from ledger.rules.capacity import short_by
from ledger.rules.claims import kept_for, quota_blocks
from ledger.rules.estimates import eta
from ledger.rules.explain import blockers, nearest_node


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
