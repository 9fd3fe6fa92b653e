"""Sentences: what one event says, in words, for every type there is.

:func:`sentence` knows nothing but the event itself. "It" is the allocation that the event is about.
What a reader of an audit wants to know besides is in :mod:`projections.details`.
"""

from __future__ import annotations

from typing import Any, assert_never

from ledger.advance import LEDGER
from ledger.errors import Reason
from ledger.events import (
    Adjusted,
    AlertCleared,
    AlertRaised,
    Allocated,
    CapacityObserved,
    Checkpointed,
    Confirmed,
    Corrected,
    Ending,
    Event,
    Expired,
    HolderSeen,
    LedgerOpened,
    NodeCordoned,
    NodeJoined,
    NodeLeft,
    NodeUncordoned,
    PolicySet,
    PoolClosed,
    PoolOpened,
    PoolResized,
    Queued,
    QuotaSet,
    Reclaimed,
    Redacted,
    Refused,
    Released,
    Renewed,
    Replenished,
    Reserved,
    Shared,
    TaskFinished,
    TaskStarted,
    TimeExtended,
    Transferred,
    UsageRecorded,
    Withdrawn,
)
from ledger.requests import Amounts, Request
from projections.wording import (
    amounts_text,
    facts_text,
    lasting,
    many,
    moment_text,
    node_text,
    nodes_text,
    plain,
    process_text,
    settings_text,
    some,
    where,
    words,
)

_CAUSES = {
    "crashed": "its process was gone",
    "leaked": "it was left behind",
    "idle": "it was idle",
    "preempted": "another request came first",
    "timed_out": "its time to wait was over",
    "voided": "the reservation was given up",
    "withdrawn": "it was withdrawn",
}


def sentence(event: Event) -> str:
    """What one event says, in words, without a full stop."""
    body = event.body
    match body:
        case Queued() | Refused() | Allocated() | Reserved() | Confirmed():
            return _asked(event, body)
        case Adjusted() | Renewed() | Transferred() | Shared() | UsageRecorded():
            return _held(event, body)
        case Ending() | Released() | Expired() | Reclaimed() | Withdrawn():
            return _ended(event, body)
        case PoolOpened() | PoolResized() | PoolClosed() | PolicySet() | QuotaSet():
            return _ruled(event, body)
        case NodeJoined() | NodeLeft() | NodeCordoned() | NodeUncordoned() | Replenished():
            return _stocked(event, body)
        case CapacityObserved():
            return _observed(event, body)
        case TaskStarted() | TaskFinished() | HolderSeen():
            return _worked(event, body)
        case LedgerOpened() | Checkpointed() | Redacted() | TimeExtended():
            return _kept(body)
        case AlertRaised() | AlertCleared() | Corrected():
            return _noted(body)
        case _:
            assert_never(body)


# --- asking --------------------------------------------------------------------------------------


def _asked(event: Event, body: Queued | Refused | Allocated | Reserved | Confirmed) -> str:
    who = plain(event.holder)
    match body:
        case Queued() if _is_claim(event, body) and event.cause is not None:
            return f"{who} waits on, and somebody else waits for it: it depends on no process now"
        case Queued() if _is_claim(event, body):
            kept_for = some(body.shortfall)
            if not kept_for:
                return f"{who} waits on, and no node is kept for it any more"
            return f"{who} waits on, and what comes free on {kept_for} is kept for it"
        case Queued():
            kept = lasting(body.until - event.at)
            asked = f"{who} asked for {request_text(body.request)} of {event.pool} and waits"
            return f"{asked}, for {kept} at most ({words(body.reason)}{_short(body.shortfall)})"
        case Refused():
            repeats = f" ({many(body.repeats, 'more time')})" if body.repeats else ""
            why = f"{words(body.reason)}; {plain(body.message)}{repeats}"
            if body.request is not None and event.holder is not None:
                asked = f"{request_text(body.request)} of {plain(event.pool)}"
                return f"{who} was refused {asked}: {why}"
            return f"{plain(body.verb)} was refused: {why}"
        case Allocated():
            got = f"{who} got {amounts_text(body.amounts)} of {event.pool}"
            return got + _place(body) + _waited(event, body) + _bound(body, event)
        case Reserved():
            what = f"{amounts_text(body.amounts)} of {event.pool} was reserved for {who}"
            for_ = lasting(body.until - event.at)
            return f"{what}{_place(body)}{_waited(event, body)}, to be confirmed within {for_}"
        case Confirmed():
            lease = body.lease_until
            until = "" if lease is None else f", and holds it for {lasting(lease - event.at)}"
            return f"{who} confirmed the reservation{until}"


def _is_claim(event: Event, body: Queued) -> bool:
    """Whether it waited already: an allocation is named after the position of its first event."""
    return body.reason == Reason.RESERVED_FOR_WAITING and event.allocation != f"A{event.position}"


def request_text(request: Request) -> str:
    """``cpu=2 memory=4Gi``, with the most that is welcome where there is a range."""
    least = amounts_text(request.amounts)
    return least if request.most is None else f"{least} (at most {amounts_text(request.most)})"


def _place(body: Allocated | Reserved) -> str:
    return f" on {where(body.placements)}" if body.placements else ""


def _waited(event: Event, body: Allocated | Reserved) -> str:
    waited = 0 if body.queued_at is None else event.at - body.queued_at
    return f" after waiting {lasting(waited)}" if waited > 0 else ""


def _short(shortfall: dict[str, Amounts]) -> str:
    return "".join(f"; {plain(n)} lacks {amounts_text(s)}" for n, s in shortfall.items() if s)


def _bound(body: Allocated, event: Event) -> str:
    if body.lease_until is not None:
        return f", for {lasting(body.lease_until - event.at)} unless renewed"
    process = body.request.process
    return "" if process is None else f", as long as process {process.pid} lives"


# --- holding -------------------------------------------------------------------------------------


def _held(event: Event, body: Adjusted | Renewed | Transferred | Shared | UsageRecorded) -> str:
    who = plain(event.holder)
    match body:
        case Adjusted():
            return _adjusted(body)
        case Renewed():
            return _renewed(event, body)
        case Transferred():
            bound = "" if body.process is None else f", bound to {process_text(body.process)}"
            if body.lease_until is not None:
                bound = f", until {moment_text(body.lease_until)} UTC unless renewed"
            by = "" if body.by in ("", body.from_holder) else f" (by {plain(body.by)})"
            return f"{plain(body.from_holder)} handed it to {who}{by}{bound}"
        case Shared():
            return f"{plain(body.by)} shares it with {some(body.with_holders)}"
        case UsageRecorded():
            final = " at its end" if body.final else ""
            over = lasting(body.until - body.since)
            return f"use was measured over {over}{final}" + _used(body)


def _adjusted(body: Adjusted) -> str:
    if body.amounts == body.previous:
        change = f"it went to {where(body.placements)} with the same {amounts_text(body.amounts)}"
    else:
        change = f"it went from {amounts_text(body.previous)} to {amounts_text(body.amounts)}"
    by = f", by {plain(body.by)}" if body.by else ""
    return change + by + (f": {plain(body.why)}" if body.why else "")


def _renewed(event: Event, body: Renewed) -> str:
    who = plain(event.holder)
    if body.allocations:
        ends = max(body.ends, default=event.at)
        leases = many(len(body.allocations), "lease")
        which = some(body.allocations)
        return f"{who} renewed {leases} ({which}), until {moment_text(ends)} UTC at the latest"
    if body.lease_until is None:
        return f"{who} renewed the lease"
    return f"{who} renewed the lease for {lasting(body.lease_until - event.at)}"


def _used(body: UsageRecorded) -> str:
    said = []
    span = body.until - body.since
    if "cpu" in body.used and span > 0:
        # Processor time is a counter, complete across gaps; of all else an average would leave them out.
        average = round(body.used["cpu"] * 1_000_000_000 / span)
        said.append(f"{amounts_text({'cpu': average})} on average")
    if body.peak:
        said.append(f"at most {amounts_text(body.peak)}")
    return f": {', '.join(said)}" if said else ""


# --- ending --------------------------------------------------------------------------------------


def _ended(event: Event, body: Ending | Released | Expired | Reclaimed | Withdrawn) -> str:
    match body:
        case Ending():
            limit = f"; it has {lasting(body.deadline - event.at)}"
            return f"{_by(body.by)} asked it to end: {_cause(body.cause)}{_because(body)}{limit}"
        case Released():
            spent = f", having consumed {amounts_text(body.consumed)}" if body.consumed else ""
            return f"{plain(body.by)} released it{spent}"
        case Expired():
            what = "its maximum age" if body.why == "max_age" else "its lease"
            return f"{what} ended without renewal"
        case Reclaimed():
            spent = f", having consumed {amounts_text(body.consumed)}" if body.consumed else ""
            return (
                f"{_by(body.by)} took it back{spent}: {_cause(body.cause)}{_because(body)}"
                + evidence_text(body.evidence, body.reason)
                + ("" if body.enforced else "; its holder could not be stopped")
            )
        case Withdrawn():
            by = "" if body.by in ("", LEDGER) else f" by {plain(body.by)}"
            what = f"it left the queue{by}: {_cause(body.cause)}"
            return what + _because(body) + evidence_text(body.evidence, body.reason)


def _by(who: str) -> str:
    return "the ledger" if who == LEDGER else plain(who) or "somebody"


def _cause(cause: str) -> str:
    known = _CAUSES.get(cause)
    return f"{words(cause)}, {known}" if known else words(cause)


def _because(body: Ending | Reclaimed | Withdrawn) -> str:
    return f" ({plain(body.reason)})" if body.reason else ""


def evidence_text(evidence: dict[str, Any], reason: str = "") -> str:
    """What an ending rests on, after a semicolon, as far as the reason does not say so already."""
    seen = evidence.get("observed_at")
    when = f"seen at {moment_text(seen)} UTC" if isinstance(seen, int) else ""
    if "pid" not in evidence:
        return f"; {facts_text(evidence)}" if evidence else ""
    how = str(evidence.get("detail") or evidence.get("how", "seen"))
    if how in reason:
        return f"; {when}" if when else ""
    host = plain(evidence.get("host", "?")).partition("#")[0]
    said = f"; process {plain(evidence['pid'])} on {host}: {plain(how)}"
    return f"{said}, {when}" if when else said


# --- pools and rules -----------------------------------------------------------------------------


def _ruled(event: Event, body: PoolOpened | PoolResized | PoolClosed | PolicySet | QuotaSet) -> str:
    pool = f"pool {plain(event.pool)}"
    match body:
        case PoolOpened():
            return _opened(pool, body)
        case PoolResized():
            return f"{pool} was resized: {nodes_text(body.nodes)} from here on"
        case PoolClosed():
            held = "what is held may be held to its end"
            return f"pool closed: {plain(event.pool)} grants nothing any more; {held}"
        case PolicySet():
            whose = "the ledger's policy" if event.pool is None else f"the policy of {pool}"
            return f"{whose} was set: {settings_text(body.policy) or 'nothing'}"
        case QuotaSet():
            return _quota(event, body)


def _opened(pool: str, body: PoolOpened) -> str:
    kinds = ["observed"] if body.kind == "observed" else []
    kinds += ["consumable"] if body.consumable else []
    kind = f" as {' and '.join(kinds)}" if kinds else ""
    policy = f"; its policy: {settings_text(body.policy)}" if body.policy else ""
    basis = f" ({plain(body.basis)})" if body.basis else ""
    return f"{pool} was opened{kind}: {nodes_text(body.nodes)}{basis}{policy}"


def _quota(event: Event, body: QuotaSet) -> str:
    whose = f"tenant {plain(event.tenant)}"
    if event.holder is not None:
        whose = f"{plain(event.holder)} of {whose}"
    there = "in all pools together" if event.pool is None else f"in pool {plain(event.pool)}"
    if not body.limits:
        return f"the quota of {whose} {there} was lifted"
    options = f" ({settings_text(body.options)})" if body.options else ""
    return f"{whose} may hold {amounts_text(body.limits)} at most {there}{options}"


def _stocked(
    event: Event, body: NodeJoined | NodeLeft | NodeCordoned | NodeUncordoned | Replenished
) -> str:
    pool = f"pool {plain(event.pool)}"
    match body:
        case NodeJoined():
            return f"node {plain(node_text(body.node))} joined {pool}"
        case NodeLeft():
            return f"node {plain(body.node)} left {pool}"
        case NodeCordoned():
            why = f" ({plain(body.reason)})" if body.reason else ""
            return f"node {plain(body.node)} of {pool} was cordoned: nothing new lands on it{why}"
        case NodeUncordoned():
            return f"node {plain(body.node)} of {pool} was uncordoned: it takes allocations again"
        case Replenished():
            over = f"; overdrawn by {amounts_text(body.overdraft)}" if body.overdraft else ""
            return f"{pool} was refilled: {amounts_text(body.available)} available{over}"


def _observed(event: Event, body: CapacityObserved) -> str:
    there = f"node {plain(body.node)} of pool {plain(event.pool)}"
    if not any(body.outside.values()):
        return f"nobody uses anything of {there} outside the ledger any more"
    how = f" ({facts_text(body.basis)})" if body.basis else ""
    return f"others use {amounts_text(body.outside)} of {there} outside the ledger{how}"


# --- work, the ledger itself, what a person should see -------------------------------------------


def _worked(event: Event, body: TaskStarted | TaskFinished | HolderSeen) -> str:
    match body:
        case TaskStarted():
            return f"{plain(body.by)} started task {plain(event.task)}"
        case TaskFinished():
            outcome = f": {plain(body.outcome)}" if body.outcome else ""
            return f"{plain(body.by)} finished task {plain(event.task)}{outcome}"
        case HolderSeen():
            program = f" ({plain(body.program)})" if body.program else ""
            return f"{plain(event.holder)} was seen: {process_text(body.process)}{program}"


def _kept(body: LedgerOpened | Checkpointed | Redacted | TimeExtended) -> str:
    match body:
        case LedgerOpened():
            began = (
                "began" if body.epoch == 1 else f"was restored and goes on as epoch {body.epoch}"
            )
            return f"ledger {plain(body.ledger_id)} {began}"
        case Checkpointed():
            return f"a digest of all that was held was written down ({plain(body.book)[:16]}…)"
        case Redacted():
            why = f": {plain(body.reason)}" if body.reason else ""
            return f"{plain(body.by)} erased the metadata of event {body.position}{why}"
        case TimeExtended():
            span = f"from {moment_text(body.since)} to {moment_text(body.until)} UTC"
            gained = f"leases that were running gained {lasting(body.by_ns)}"
            return f"{plain(body.why)}; nobody could renew {span}, so {gained}"


def _noted(body: AlertRaised | AlertCleared | Corrected) -> str:
    match body:
        case AlertRaised():
            return f"alert {plain(body.alert)}: {plain(body.message)}"
        case AlertCleared():
            why = f" ({plain(body.reason)})" if body.reason else ""
            return f"alert {plain(body.alert)} was cleared by {_by(body.by)}{why}"
        case Corrected():
            really = f"; really so: {facts_text(body.facts)}" if body.facts else ""
            why = f": {plain(body.reason)}" if body.reason else ""
            return f"{_by(body.by)} corrected event {body.corrects}{why}{really}"
