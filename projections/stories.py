"""Stories: what happened to one allocation or request, event by event, in sentences.

A story is for somebody who was not there. It is folded from the allocation's own events only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.advance import advance
from ledger.amounts import format_amounts
from ledger.book import Allocation
from ledger.events import (
    Adjusted,
    Allocated,
    Confirmed,
    Ending,
    Event,
    Expired,
    Queued,
    Reclaimed,
    Refused,
    Released,
    Renewed,
    Reserved,
    Transferred,
    UsageRecorded,
    Withdrawn,
)
from ledger.requests import Amounts, Placement


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a story: when (ns UTC), at which position, what happened in words."""

    at: int
    position: int
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """A subject (``A17``, ``R19``), the answer to "why" in one sentence, and how it came to it.

    ``facts`` are the numbers behind the answer, JSON-ready: shortfall, blockers, evidence.
    """

    subject: str
    answer: str
    steps: tuple[Step, ...]
    facts: dict[str, Any]
    allocation: Allocation | None = None


def amounts_text(amounts: Amounts) -> str:
    """``cpu=2 memory=4Gi``."""
    return " ".join(f"{r}={text}" for r, text in format_amounts(amounts).items())


def _seconds(ns: int) -> str:
    seconds = ns / 1e9
    return f"{seconds:.3g} s" if seconds < 999 else f"{seconds:.0f} s"


def _where(placements: Sequence[Placement]) -> str:
    parts = []
    for p in placements:
        cards = "".join(
            f" {resource} {', '.join(shares)}" for resource, shares in (p.devices or {}).items()
        )
        parts.append(p.node + (f" ({cards.strip()})" if cards else ""))
    return ", ".join(parts)


def _evidence_text(evidence: dict[str, Any]) -> str:
    if "pid" in evidence:
        how = evidence.get("how", "seen")
        return f"; process {evidence['pid']} on {evidence.get('host', '?')}: {how}"
    return "".join(f"; {name}: {value}" for name, value in evidence.items())


def sentence(event: Event) -> str:
    """What one event says, in words."""
    body = event.body
    match body:
        case Queued() if event.allocation != f"A{event.position}":
            if event.cause is not None:
                return "somebody else waits for it now: its place stays when whoever asked ends"
            if not body.shortfall:
                return "no node is kept for it any more"
            return f"from here on {', '.join(sorted(body.shortfall))} is kept for it"
        case Queued():
            kept = _seconds(body.until - event.at)
            return (
                f"{event.holder} asked for {amounts_text(body.request.amounts)} of {event.pool} and"
                f" waits, for {kept} at most ({body.reason})"
            )
        case Allocated():
            waited = (
                ""
                if body.queued_at is None
                else (f" after waiting {_seconds(event.at - body.queued_at)}")
            )
            bound = _bound(body, event)
            return (
                f"{event.holder} got {amounts_text(body.amounts)} of {event.pool} on"
                f" {_where(body.placements)}{waited}{bound}"
            )
        case Reserved():
            return (
                f"{amounts_text(body.amounts)} of {event.pool} were reserved for {event.holder} on"
                f" {_where(body.placements)}, for {_seconds(body.until - event.at)}"
            )
        case Confirmed():
            return f"{event.holder} confirmed the reservation"
        case Adjusted():
            return f"it went from {amounts_text(body.previous)} to {amounts_text(body.amounts)}"
        case Renewed():
            return f"{event.holder} renewed the lease"
        case Ending():
            return f"{body.by} asked it to end: {body.cause}" + _because(body.reason)
        case Released():
            return f"{body.by} released it"
        case Expired():
            what = "its maximum age" if body.why == "max_age" else "its lease"
            return f"{what} ended without renewal"
        case Reclaimed():
            return (
                f"{body.by} took it back: {body.cause}"
                + _because(body.reason)
                + _evidence_text(body.evidence)
                + ("" if body.enforced else "; its holder could not be stopped")
            )
        case Withdrawn():
            return f"it left the queue: {body.cause}" + _because(body.reason)
        case Transferred():
            return f"{body.from_holder} handed it to {event.holder}"
        case UsageRecorded():
            return f"use was measured over {_seconds(body.until - body.since)}" + _peak(body.peak)
        case Refused():
            repeats = f" ({body.repeats} more times)" if body.repeats else ""
            return f"{body.verb} was refused: {body.reason}; {body.message}{repeats}"
        case _:
            return event.type.replace("_", " ")


def _bound(body: Allocated, event: Event) -> str:
    if body.lease_until is not None:
        return f", for {_seconds(body.lease_until - event.at)} unless renewed"
    process = body.request.process
    return "" if process is None else f", as long as process {process.pid} lives"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _peak(peak: Amounts) -> str:
    return f": at most {amounts_text(peak)}" if peak else ""


def steps_of(events: Iterable[Event]) -> tuple[Step, ...]:
    """Each event as a line."""
    return tuple(Step(e.at, e.position, e.type, sentence(e)) for e in events)


def story_of_allocation(events: Sequence[Event], now: int) -> Story:
    """The story of one allocation from its own events, as it stands at ``now``."""
    allocation: Allocation | None = None
    facts: dict[str, Any] = {}
    for event in events:
        allocation = advance(allocation, event)
        body = event.body
        if isinstance(body, Queued):
            facts["shortfall"] = {n: format_amounts(short) for n, short in body.shortfall.items()}
        if isinstance(body, Reclaimed):
            facts["evidence"] = body.evidence
    assert allocation is not None
    return Story(
        allocation.id, _answer(allocation, events, now), steps_of(events), facts, allocation
    )


def _answer(allocation: Allocation, events: Sequence[Event], now: int) -> str:
    name = allocation.id
    due = allocation.due
    if due is not None and due <= now and allocation.state in ("active", "waiting", "reserved"):
        what = "lease" if allocation.state == "active" else "time"
        return f"{name} ended: its {what} was over {_seconds(now - due)} ago"
    if allocation.state == "ended":
        ending = next(
            (
                e
                for e in reversed(events)
                if e.type in ("released", "expired", "reclaimed", "withdrawn")
            ),
            events[-1],
        )
        return f"{name} ended ({allocation.ended_by}): {sentence(ending)}"
    if allocation.state == "waiting":
        first = events[0].body
        assert isinstance(first, Queued)
        short = "; ".join(f"{n} lacks {amounts_text(s)}" for n, s in first.shortfall.items())
        reason = first.reason.replace("_", " ")
        return f"{name} waits: {reason}" + (f" ({short})" if short else "")
    if allocation.state == "ending":
        return f"{name} was asked to end ({allocation.ending_cause}) and has not gone yet"
    return f"{name} is {allocation.state}: {sentence(events[0])}"


def story_of_refusal(event: Event) -> Story:
    """The story of one refusal: short by how much, who was in the way, what would have fitted."""
    body = event.body
    assert isinstance(body, Refused)
    parts = [f"{body.verb} was refused ({body.reason}): {body.message}"]
    for node, short in body.shortfall.items():
        parts.append(f"short by {amounts_text(short)} on {node}")
    if body.fits_now:
        parts.append(f"{amounts_text(body.fits_now)} would have fitted")
    for blocker in body.blockers:
        who = blocker.get("holder", "another tenant")
        which = f" ({blocker['allocation']})" if "allocation" in blocker else ""
        parts.append(f"{who}{which} holds {amounts_text(blocker['amounts'])}")
    facts = {
        "reason": body.reason,
        "hint": body.hint,
        "shortfall": {n: format_amounts(short) for n, short in body.shortfall.items()},
        "fits_now": format_amounts(body.fits_now),
        "blockers": [{**b, "amounts": format_amounts(b["amounts"])} for b in body.blockers],
    }
    return Story(f"R{event.position}", "; ".join(parts), steps_of([event]), facts)
