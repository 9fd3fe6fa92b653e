"""Tenure: what may happen to an allocation between its grant and its end."""

from __future__ import annotations

from ledger.book import LIVE, Allocation, Book
from ledger.commands import (
    Adjust,
    Await,
    Confirm,
    Reclaim,
    Release,
    Renew,
    RenewHolder,
    Transfer,
    Withdraw,
)
from ledger.errors import Reason
from ledger.events import (
    Adjusted,
    Cause,
    Confirmed,
    Ending,
    Reclaimed,
    Released,
    Renewed,
    Transferred,
    Withdrawn,
)
from ledger.rules.adjusting import adjustment
from ledger.rules.answers import Draft, No
from ledger.rules.budgets import settlement
from ledger.rules.claims import kept_for, restated
from ledger.rules.gangs import members
from ledger.rules.leases import (
    bounds,
    end_descendants,
    first_bound,
    renewed_until,
    stands_since,
)
from ledger.rules.quotas import over_quota


def _not_held(allocation: Allocation, verb: str) -> No:
    return No(
        Reason.INVALID,
        f"{allocation.id} is {allocation.state}: it cannot {verb}",
        "`leasebook withdraw` gives up a place in the queue"
        if allocation.state == "waiting"
        else f"see `leasebook show {allocation.id}`",
    )


def confirm(
    book: Book, draft: Draft, command: Confirm, allocation: Allocation, cause: Cause
) -> No | None:
    """Turn a reservation into an allocation; its lease begins now."""
    if allocation.state != "reserved":
        return _not_held(allocation, "be confirmed")
    policy = book.pools[allocation.pool].policy
    draft.on(allocation, Confirmed(*bounds(allocation.request, policy, draft.now)), cause=cause)
    return None


def adjust(
    book: Book, draft: Draft, command: Adjust, allocation: Allocation, cause: Cause
) -> No | None:
    """Hold more or less on the same node."""
    if allocation.state != "active":
        return _not_held(allocation, "be adjusted")
    answer = adjustment(book, allocation, command.amounts, draft.now)
    if isinstance(answer, No):
        return answer
    amounts, placements = answer
    body = Adjusted(amounts, allocation.amounts, placements, command.claim.who)
    draft.on(allocation, body, cause=cause)
    return None


def renew(
    book: Book, draft: Draft, command: Renew, allocation: Allocation, cause: Cause
) -> No | None:
    """Extend one lease."""
    if allocation.state != "active":
        return _not_held(allocation, "be renewed")
    until = renewed_until(allocation, command.ttl_ns, draft.now)
    if isinstance(until, No):
        return until
    draft.on(allocation, Renewed(until), cause=cause)
    return None


def renew_holder(book: Book, draft: Draft, command: RenewHolder, cause: Cause) -> No | None:
    """Extend every ttl lease of a holder with one event. Those at their maximum age stay as they are."""
    ids, ends = [], []
    held = [book.allocations[i] for i in book.by_holder.get((command.tenant, command.holder), {})]
    for allocation in sorted(held, key=lambda a: a.position):
        if allocation.state != "active" or allocation.lease_until is None:
            continue
        until = renewed_until(allocation, command.ttl_ns, draft.now)
        if not isinstance(until, No):
            ids.append(allocation.id)
            ends.append(until)
    if not ids:
        return No(
            Reason.NO_SUCH_ALLOCATION,
            f"{command.holder} holds nothing that could be renewed",
            "see `leasebook list --holder`",
        )
    draft.add(
        Renewed(None, tuple(ids), tuple(ends)),
        tenant=command.tenant,
        holder=command.holder,
        cause=cause,
    )
    return None


def release(
    book: Book, draft: Draft, command: Release, allocation: Allocation, cause: Cause
) -> No | None:
    """Give back. What was asked to end keeps the cause it was asked for."""
    if allocation.state == "waiting":
        return _not_held(allocation, "be released")
    unsettled = settlement(book, allocation, command.consumed)
    if unsettled is not None:
        return unsettled
    end_descendants(book, draft, allocation, draft.now)
    if allocation.state == "reserved":
        draft.on(allocation, Withdrawn("voided", command.claim.who), cause=cause)
    elif allocation.state == "ending":
        evidence = {"released_by": command.claim.who}
        body = Reclaimed(
            allocation.ending_cause or "forced",
            evidence,
            command.claim.who,
            "released after it was asked to end",
            consumed=command.consumed,
        )
        draft.on(allocation, body, cause=cause)
    else:
        draft.on(allocation, Released(command.claim.who, command.consumed), cause=cause)
    return None


def transfer(
    book: Book, draft: Draft, command: Transfer, allocation: Allocation, cause: Cause
) -> No | None:
    """Hand over to another holder, under the same lease unless another is given."""
    if allocation.state != "active":
        return _not_held(allocation, "be transferred")
    lease_until = allocation.lease_until
    max_age_until = None
    if command.process is not None:
        lease_until = None
    elif command.ttl_ns is not None:
        lease_until = draft.now + command.ttl_ns
        cap = allocation.max_age_until
        if cap is None:
            cap = max_age_until = first_bound(book, allocation)
        if cap is not None and cap <= draft.now:
            return No(
                Reason.MAX_AGE_REACHED,
                f"{allocation.id} has reached its maximum age: no ttl can be given to it",
                "give the new holder's --pid, or release it and allocate anew",
            )
        if cap is not None:
            lease_until = min(lease_until, cap)
    elif lease_until is None:
        return No(
            Reason.INVALID,
            f"{allocation.id} is bound to its holder's process, which the new holder is not",
            "give the new holder's --pid or a --ttl",
        )
    if command.to_holder != allocation.holder and allocation.request.parent is None:
        over = over_quota(
            book,
            allocation.tenant,
            command.to_holder,
            allocation.pool,
            allocation.amounts,
            holder_only=True,
        )
        if over is not None:
            return over
    draft.add(
        Transferred(
            allocation.holder, command.claim.who, command.process, lease_until, max_age_until
        ),
        tenant=allocation.tenant,
        pool=allocation.pool,
        allocation=allocation.id,
        holder=command.to_holder,
        task=command.to_task or allocation.task,
        cause=cause,
    )
    return None


def await_(
    book: Book, draft: Draft, command: Await, allocation: Allocation, cause: Cause
) -> No | None:
    """Somebody else waits for a request: it is no longer given up with the process that asked."""
    if allocation.state == "waiting" and allocation.asker is not None:
        body = restated(allocation, kept_for(book, allocation), None)
        draft.on(allocation, body, cause=cause)
    return None


def withdraw(
    book: Book, draft: Draft, command: Withdraw, allocation: Allocation, cause: Cause
) -> No | None:
    """Give up a place in the queue or a reservation."""
    if allocation.state not in ("waiting", "reserved"):
        return _not_held(allocation, "be withdrawn")
    body = Withdrawn(command.cause, command.claim.who, command.reason)
    draft.on(allocation, body, cause=cause)
    _withdraw_gang(book, draft, allocation, command.claim.who)
    return None


def _withdraw_gang(book: Book, draft: Draft, allocation: Allocation, who: str) -> None:
    """A gang is one place: who withdraws one of it withdraws all that wait with it."""
    if allocation.gang is None or allocation.state != "waiting":
        return
    space = book.space_of(allocation.pool, allocation.request.parent)
    assert space is not None
    for member in members(book, space, allocation.gang):
        if member.id != allocation.id:
            draft.on(member, Withdrawn("withdrawn", who, f"{allocation.id} of its gang left"))


def reclaim(
    book: Book, draft: Draft, command: Reclaim, allocation: Allocation, cause: Cause
) -> No | None:
    """Take back, for a cause and with evidence; ask first where the holder's process still lives."""
    who = command.claim.who
    asker = command.asker
    if asker is not None and (allocation.state != "waiting" or allocation.asker != asker):
        return No(
            Reason.INVALID,
            f"{allocation.id} is not waited for by process {asker.pid} alone any more",
            "it stays as it is",
        )
    if allocation.state not in LIVE:
        body = Withdrawn(command.cause, who, command.reason, command.evidence)
        draft.on(allocation, body, cause=cause)
        _withdraw_gang(book, draft, allocation, who)
        return None
    # Nothing is used yet under a reservation, so there is nothing to wind up.
    asked = command.process_alive and allocation.state != "reserved"
    if asked and allocation.request.process is not None:
        if allocation.state == "ending":
            return No(
                Reason.INVALID,
                f"{allocation.id} has been asked to end already",
                "it returns when its process is gone",
            )
        ending = Ending(
            command.cause, draft.now + command.grace_ns, command.enforced, who, command.reason
        )
        draft.on(allocation, ending, cause=cause)
        return None
    at = draft.now
    if command.happened_at is not None:
        at = min(draft.now, max(command.happened_at, stands_since(allocation, draft.now)))
    end_descendants(book, draft, allocation, at)
    cause_word = allocation.ending_cause or command.cause
    taken = Reclaimed(cause_word, command.evidence, who, command.reason, command.enforced)
    draft.on(allocation, taken, cause=cause, at=at)
    return None
