"""What a probe looks at, and what it gives: values, and nothing that reads the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.identity import ProcessIdentity
from ledger.requests import Amounts

if TYPE_CHECKING:
    from ledger.book import Allocation, Book

NAMED_MAX: Final = 3
"""How many processes a finding names, the largest first."""


@dataclass(frozen=True, slots=True)
class Held:
    """An allocation on the node that is looked at, by what it holds there, in base units.

    ``processes`` are the one it is bound to and those of all that draw on it; none where a ttl
    bounds it, and then nobody knows whose processes are its own.
    """

    allocation: str
    amounts: Amounts
    processes: tuple[ProcessIdentity, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What others use of a node: measured resources only, with 0 where it is nothing.

    A resource that could not be measured is missing: unknown is not zero, and what was seen of it
    before stands. ``basis`` says for what is used whose it is, by program and pid alone.
    """

    outside: Amounts = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)

    def after(self, outside: Amounts, basis: dict[str, str]) -> Finding:
        """This finding with what was seen before of what it did not measure; zeros left out."""
        kept = {r: amount for r, amount in outside.items() if r not in self.outside}
        found = {r: amount for r, amount in self.outside.items() if amount}
        words = {r: text for r, text in basis.items() if r in kept}
        return Finding(
            {**kept, **found}, words | {r: t for r, t in self.basis.items() if r in found}
        )


def held_on(book: Book, pool: str) -> dict[str, list[Held]]:
    """Node → what is held on it by this pool's allocations. What draws on another's is in that."""
    from ledger.book import LIVE

    drawing: dict[str, list[Allocation]] = {}
    holding: list[Allocation] = []
    for allocation in book.allocations.values():
        if allocation.state not in LIVE or allocation.pool != pool:
            continue
        parent = allocation.request.parent
        if parent is None:
            holding.append(allocation)
        else:
            drawing.setdefault(parent, []).append(allocation)
    found: dict[str, list[Held]] = {}
    for allocation in holding:
        processes = _processes(allocation, drawing)
        for placement in allocation.placements:
            held = Held(allocation.id, placement.amounts, processes)
            found.setdefault(placement.node, []).append(held)
    return found


def _processes(
    allocation: Allocation, drawing: dict[str, list[Allocation]]
) -> tuple[ProcessIdentity, ...]:
    """The processes that use what an allocation holds; none if it is bound to none itself."""
    if allocation.request.process is None:
        return ()
    found = [allocation.request.process]
    todo = list(drawing.get(allocation.id, ()))
    while todo:
        child = todo.pop()
        if child.request.process is not None:
            found.append(child.request.process)
        todo += drawing.get(child.id, ())
    return tuple(found)
