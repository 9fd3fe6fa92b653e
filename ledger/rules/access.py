"""Access: which allocation a command means, and whether its claim holds."""

from __future__ import annotations

from ledger.book import Allocation, Book
from ledger.commands import Targeted
from ledger.errors import Reason
from ledger.rules.answers import No


def find(book: Book, command: Targeted, ended: Allocation | None) -> Allocation | No:
    """The live allocation that a command is about, its claim checked; or why not.

    ``ended`` is what the log knows of it where the book carries it no more. Another tenant's
    allocation does not exist as far as a caller can tell.
    """
    allocation = book.allocations.get(command.allocation)
    if allocation is None and ended is not None and ended.tenant == command.tenant:
        return No(
            Reason.ALREADY_ENDED,
            f"{ended.id} has ended already: {ended.ended_by}",
            f"see `leasebook why {ended.id}`",
        )
    if allocation is None or allocation.tenant != command.tenant:
        return No(
            Reason.NO_SUCH_ALLOCATION,
            f"there is no allocation {command.allocation!r}",
            "see `leasebook list`",
        )
    claim = command.claim
    if claim.operator:
        return allocation
    if claim.token is not None:
        # What waits has no token yet, so none can be right.
        if allocation.token and claim.token == allocation.token:
            return allocation
        return No(
            Reason.STALE_TOKEN,
            f"token {claim.token} is not {allocation.id}'s: it has changed hands since",
            "stop using the resource; it may be another's by now",
        )
    if claim.who != allocation.holder:
        return No(
            Reason.NOT_HOLDER,
            f"{allocation.id} is held by {allocation.holder}, not by {claim.who}",
            "give the holder (`--holder`) or the fencing token (`--token`)",
        )
    return allocation
