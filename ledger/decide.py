"""Book + command + time → events: the one place where intentions become facts, or refusals.

Pure. The book is read, never changed; an atomic batch is decided on an overlay. What is due must
have been written down first (:func:`ledger.step.settle_due`), so that lateness never lies.
"""

from __future__ import annotations

from typing import assert_never

from ledger import commands as c
from ledger.amounts import check_name
from ledger.book import Allocation, Book
from ledger.canonical import canonical_json
from ledger.codec import encode_process
from ledger.content import content_digest
from ledger.errors import InvalidInput, Reason
from ledger.events import (
    AlertCleared,
    AlertRaised,
    Cause,
    Checkpointed,
    Corrected,
    Event,
    HolderSeen,
    LedgerOpened,
    Redacted,
    Refused,
    TaskFinished,
    TaskStarted,
    TimeExtended,
    UsageRecorded,
)
from ledger.fields import FIELDS, book_digest
from ledger.rules import admission, facts, leases, pools, tenure
from ledger.rules.access import find
from ledger.rules.answers import Draft, No
from ledger.rules.batching import decide_batch
from ledger.rules.history import Outcome
from ledger.rules.validity import (
    MAX_BATCH,
    check_amounts,
    check_basis,
    check_correction,
    check_nodes,
    check_request,
    check_time,
)

_LEDGERS_OWN = (c.WriteDue, c.TakeCheckpoint)
Targeting = (
    c.Confirm | c.Adjust | c.Renew | c.Release | c.Transfer | c.Withdraw | c.Await | c.Reclaim
)
Pooling = (
    c.OpenPool
    | c.ResizePool
    | c.ClosePool
    | c.JoinNode
    | c.LeaveNode
    | c.CordonNode
    | c.SetQuota
    | c.SetPolicy
    | c.ObserveCapacity
)
Recording = (
    c.StartTask
    | c.FinishTask
    | c.SeeHolder
    | c.RaiseAlert
    | c.ClearAlert
    | c.ExtendTime
    | c.Correct
    | c.Redact
    | c.OpenLedger
)


def decide(
    book: Book, command: c.AnyCommand, now: int, ended: Allocation | None = None
) -> tuple[Event, ...]:
    """The events that a command leads to at ``now`` (ns UTC); a refusal is one of them.

    ``ended`` is what the log knows of the command's allocation where the book carries it no more.
    An empty result means that all is so already. Raises InvalidInput for what can never be right.
    """
    check(command)
    draft = Draft(book, now)
    if isinstance(command, c.Allocate):
        admission.allocate(book, draft, command, Cause(command.command_id, content_digest(command)))
    elif isinstance(command, c.WriteDue):
        leases.write_due(book, draft, command.limit)
    elif isinstance(command, c.TakeCheckpoint):
        draft.add(Checkpointed(FIELDS, command.digest or book_digest(book)), tenant="")
    elif isinstance(command, c.AllocateBatch):
        return decide_batch(book, command, now)
    elif isinstance(command, c.RecordFacts):
        return decide_facts(book, command, now, {})[0]
    else:
        _decide_other(book, draft, command, ended)
    return tuple(draft.events)


def decide_facts(
    book: Book, command: c.RecordFacts, now: int, known: facts.Known
) -> tuple[tuple[Event, ...], tuple[Outcome, ...]]:
    """What facts add to what is known under their keys, and what became of each of them."""
    draft = Draft(book, now)
    outcomes = facts.record(book, draft, command, known)
    if isinstance(outcomes, No):
        _refuse(draft, command, None, outcomes, Cause(command.command_id or "import", ""))
        outcomes = ()
    return tuple(draft.events), outcomes


def check(command: c.AnyCommand) -> None:
    """Raise InvalidInput for what can never be right."""
    if isinstance(command, _LEDGERS_OWN):
        return
    if not isinstance(command, c.RecordFacts):
        # It is its facts that bear ids.
        check_name("command id", command.command_id)
    check_name("tenant", command.tenant)
    if isinstance(command, c.Allocate):
        check_name("pool", command.pool)
        check_name("holder", command.holder)
        if command.task is not None:
            check_name("task", command.task)
        check_request(command.request)
        if command.asker is not None:
            canonical_json(encode_process(command.asker))
        _check_metadata(command)
    elif isinstance(command, c.AllocateBatch):
        _check_batch(command)
    elif isinstance(command, c.RecordFacts):
        check_name("pool", command.pool)
        facts.check_facts(command)
    else:
        _check_other(command)


def _check_metadata(command: c.Allocate) -> None:
    if command.metadata and len(canonical_json(command.metadata)) > 16_384:
        raise InvalidInput("metadata is larger than 16 KiB", "keep it elsewhere and name it here")


def _check_batch(command: c.AllocateBatch) -> None:
    if not 1 <= len(command.items) <= MAX_BATCH:
        raise InvalidInput(
            f"a batch of {len(command.items)} requests; it takes 1 to {MAX_BATCH}", "split it"
        )
    for item in command.items:
        if item.tenant != command.tenant:
            raise InvalidInput("all requests of a batch are of one tenant", "split it by tenant")
        if item.asker is not None:
            raise InvalidInput(
                "nobody waits for one request of a batch alone", "leave its asker out"
            )
        check(item)
    if command.atomic and any(item.request.wait_ns is not None for item in command.items):
        first = command.items[0]
        for item in command.items:
            if (
                item.pool != first.pool
                or item.request.parent is not None
                or item.request.wait_ns != first.request.wait_ns
            ):
                raise InvalidInput(
                    "an atomic batch that waits asks one pool, for one time, and draws on no parent",
                    "give all its requests the same pool and wait",
                )


def _check_other(command: c.AnyCommand) -> None:
    for name in ("pool", "holder", "task", "by", "to_holder", "to_task", "alert"):
        value = getattr(command, name, None)
        if value is not None:
            check_name(
                {"by": "name", "to_holder": "holder", "to_task": "task"}.get(name, name), value
            )
    if isinstance(command, c.OpenPool) and command.kind == "observed" and not command.nodes:
        return  # Whose nodes are not known: it records all the same.
    if isinstance(command, c.OpenPool | c.ResizePool):
        check_nodes(command.nodes)
    elif isinstance(command, c.JoinNode):
        check_nodes((command.node,))
    elif isinstance(command, c.Adjust):
        check_amounts(command.amounts, least=0)
    elif isinstance(command, c.SetQuota):
        _check_quota(command)
    elif isinstance(command, c.ObserveCapacity):
        if command.outside:
            check_amounts(command.outside, least=0)
        check_basis(command.basis)
    elif isinstance(command, c.Release) and command.consumed is not None:
        check_amounts(command.consumed, least=0)
    elif isinstance(command, c.Renew | c.RenewHolder | c.Transfer):
        check_time("ttl", command.ttl_ns)
    elif isinstance(command, c.Correct):
        check_correction(command.allocation, command.facts)
    if isinstance(command, c.Targeted):
        check_name("holder", command.claim.who)
    if isinstance(command, c.Transfer) and command.process is not None and command.ttl_ns:
        raise InvalidInput(
            "an allocation is bound by a ttl or by a process, not by both", "give one of them"
        )


def _check_quota(command: c.SetQuota) -> None:
    if command.limits:
        check_amounts(command.limits, least=0)
    if command.cohort is not None:
        check_name("cohort", command.cohort)
        if command.holder is not None or not command.limits:
            raise InvalidInput(
                "a cohort shares the limits of its tenants: a holder's limits, or none, are not shared",
                "name the cohort with a tenant's limits, or leave it out",
            )


def _decide_other(
    book: Book, draft: Draft, command: c.AnyCommand, ended: Allocation | None
) -> None:
    """Everything but requests for capacity: events, or one refusal."""
    cause = Cause(command.command_id, content_digest(command))
    allocation: Allocation | None = None
    no: No | None
    if isinstance(command, Targeting):
        found = find(book, command, ended)
        if isinstance(found, No):
            no = found
            allocation = book.allocations.get(command.allocation) or ended
        else:
            allocation = found
            no = _decide_targeted(book, draft, command, found, cause)
    elif isinstance(command, Pooling):
        no = _decide_pool(book, draft, command, cause)
    elif isinstance(command, c.RenewHolder):
        no = tenure.renew_holder(book, draft, command, cause)
    elif isinstance(command, c.RecordUsage):
        no = _record_usage(book, draft, command, ended, cause)
    else:
        assert isinstance(command, Recording)
        no = _record(book, draft, command, cause)
    if no is not None:
        _refuse(draft, command, allocation, no, cause)


def _refuse(
    draft: Draft, command: c.AnyCommand, allocation: Allocation | None, no: No, cause: Cause
) -> None:
    body = Refused(
        command.VERB,
        no.reason,
        no.message,
        no.hint,
        None,
        no.shortfall,
        no.fits_now,
        no.blockers,
    )
    if allocation is not None and allocation.tenant == command.tenant:
        draft.on(allocation, body, cause=cause)
    else:
        draft.add(
            body,
            tenant=command.tenant,
            pool=getattr(command, "pool", None),
            holder=getattr(command, "holder", None),
            cause=cause,
        )


def _decide_targeted(
    book: Book, draft: Draft, command: Targeting, allocation: Allocation, cause: Cause
) -> No | None:
    match command:
        case c.Release():
            return tenure.release(book, draft, command, allocation, cause)
        case c.Renew():
            return tenure.renew(book, draft, command, allocation, cause)
        case c.Adjust():
            return tenure.adjust(book, draft, command, allocation, cause)
        case c.Transfer():
            return tenure.transfer(book, draft, command, allocation, cause)
        case c.Withdraw():
            return tenure.withdraw(book, draft, command, allocation, cause)
        case c.Await():
            return tenure.await_(book, draft, command, allocation, cause)
        case c.Reclaim():
            return tenure.reclaim(book, draft, command, allocation, cause)
        case c.Confirm():
            return tenure.confirm(book, draft, command, allocation, cause)
        case _:
            assert_never(command)


def _decide_pool(book: Book, draft: Draft, command: Pooling, cause: Cause) -> No | None:
    match command:
        case c.OpenPool():
            return pools.open_pool(book, draft, command, cause)
        case c.ResizePool():
            return pools.resize_pool(book, draft, command, cause)
        case c.ClosePool():
            return pools.close_pool(book, draft, command, cause)
        case c.JoinNode():
            return pools.join_node(book, draft, command, cause)
        case c.LeaveNode():
            return pools.leave_node(book, draft, command, cause)
        case c.CordonNode():
            return pools.cordon_node(book, draft, command, cause)
        case c.SetQuota():
            return pools.set_quota(book, draft, command, cause)
        case c.SetPolicy():
            return pools.set_policy(book, draft, command, cause)
        case c.ObserveCapacity():
            return pools.observe_capacity(book, draft, command, cause)
        case _:
            assert_never(command)


def _record_usage(
    book: Book, draft: Draft, command: c.RecordUsage, ended: Allocation | None, cause: Cause
) -> No | None:
    allocation = book.allocations.get(command.allocation) or ended
    if allocation is None or allocation.tenant != command.tenant:
        return No(Reason.NO_SUCH_ALLOCATION, f"there is no allocation {command.allocation!r}")
    body = UsageRecorded(
        command.since,
        command.until,
        command.used,
        command.peak,
        command.basis,
        command.samples,
        command.gaps_ns,
        command.final,
        command.exit_code,
    )
    draft.on(allocation, body, cause=cause)
    return None


def _record(book: Book, draft: Draft, command: Recording, cause: Cause) -> No | None:
    """Facts that nothing stands in the way of, but for what is so already."""
    tenant = command.tenant
    match command:
        case c.StartTask():
            if (tenant, command.task) in book.tasks:
                return No(Reason.ALREADY_EXISTS, f"task {command.task!r} has been started already")
            draft.add(TaskStarted(command.by), tenant=tenant, task=command.task, cause=cause)
        case c.FinishTask():
            body = TaskFinished(command.by, command.outcome)
            draft.add(body, tenant=tenant, task=command.task, cause=cause)
        case c.SeeHolder():
            if book.holders.get((tenant, command.holder)) != command.process:
                seen = HolderSeen(command.process, command.program)
                draft.add(seen, tenant=tenant, holder=command.holder, cause=cause)
        case c.RaiseAlert():
            if command.alert not in book.alerts:
                alert = AlertRaised(command.alert, command.message, command.details)
                draft.add(alert, tenant="", cause=cause)
        case c.ClearAlert():
            if command.alert in book.alerts:
                cleared = AlertCleared(command.alert, command.by, command.reason)
                draft.add(cleared, tenant="", cause=cause)
        case c.ExtendTime():
            extended = TimeExtended(command.by_ns, command.since, command.until, command.why)
            draft.add(extended, tenant="", cause=cause)
        case c.Correct():
            fact = Corrected(command.corrects, command.reason, command.by, command.facts)
            draft.add(
                fact,
                tenant=command.tenant,
                pool=command.pool,
                allocation=command.allocation,
                holder=command.holder,
                task=command.task,
                cause=cause,
            )
        case c.Redact():
            gone = Redacted(command.position, command.metadata_sha256, command.reason, command.by)
            draft.add(gone, tenant="", cause=cause)
        case c.OpenLedger():
            if command.epoch <= book.epoch:
                return None
            opened = LedgerOpened(command.ledger_id, command.epoch)
            draft.add(opened, tenant="", cause=cause)
        case _:
            assert_never(command)
    return None
