"""Duplicates: two different commands of one holder, for one task, with one need, both live."""

from __future__ import annotations

from ledger.book import Allocation, Book, Pool
from ledger.commands import Allocate
from ledger.errors import Reason
from ledger.events import AlertRaised
from ledger.rules.answers import No


def twin_of(
    book: Book, pool: Pool, command: Allocate, upto: int | None = None
) -> Allocation | None:
    """The live allocation that this request repeats, where the pool's policy asks for it, or None.

    Without a task two equal requests are two needs: nothing says that they are one. Nor are those of
    one batch the same need twice: what came after position ``upto`` does not count.
    """
    if pool.policy.duplicates == "allow" or command.task is None:
        return None
    request = command.request
    held = book.by_holder.get((command.tenant, command.holder), {})
    # By age, wherever they came from: what was transferred stands last in the index.
    for allocation_id in sorted(held, key=lambda each: int(each[1:])):
        there = book.allocations[allocation_id]
        if (
            (upto is None or there.position <= upto)
            and there.task == command.task
            and there.pool == command.pool
            and there.state in ("active", "waiting", "reserved")
            and there.request.parent == request.parent
            and there.request.amounts == request.amounts
            and there.request.select == request.select
        ):
            return there
    return None


def refusal(twin: Allocation) -> No:
    """The refusal of a request that repeats another."""
    return No(
        Reason.DUPLICATE_REQUEST,
        f"{twin.holder} has {twin.id} for the same task and need already ({twin.state})",
        "use that one, or give the second need a task of its own",
        blockers=({"allocation": twin.id, "holder": twin.holder, "amounts": twin.amounts},),
    )


def report(twin: Allocation, second: str) -> AlertRaised:
    """The alert that a request repeats another: what it is known by, and both allocations."""
    return AlertRaised(
        f"duplicate_request:{twin.id}",
        f"{twin.holder} asked again for what {twin.id} is for",
        {"first": twin.id, "second": second},
    )
