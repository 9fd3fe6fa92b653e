"""Stories: what happened to one allocation or request, event by event, in sentences.

A story is for somebody who was not there. It is folded from the allocation's own events only; why a
request still waits is told from the book (:func:`at_present`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledger.advance import advance
from ledger.amounts import format_amounts
from ledger.book import Allocation, Book
from ledger.errors import Reason
from ledger.events import Confirmed, Event, Queued, Reclaimed, Refused
from ledger.rules.answers import No
from ledger.rules.prospects import Prospect, hold_up, prospect
from projections.sentences import sentence
from projections.wording import amounts_text, lasting, moment_text, some

__all__ = [
    "Step",
    "Story",
    "amounts_text",
    "at_present",
    "sentence",
    "steps_of",
    "story_of_allocation",
    "story_of_refusal",
]


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

    ``facts`` are the numbers behind the answer, JSON-ready: shortfall, blockers, evidence. Times in
    them (``since``, ``expires_at``, ``eta_at``) are ns UTC.
    """

    subject: str
    answer: str
    steps: tuple[Step, ...]
    facts: dict[str, Any]
    allocation: Allocation | None = None


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
        return f"{name} ended: its {what} was over {lasting(now - due)} ago"
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
        short = "; ".join(f"{n} lacked {amounts_text(s)}" for n, s in first.shortfall.items())
        reason = first.reason.replace("_", " ")
        return f"{name} waits: when it asked, {reason}" + (f" ({short})" if short else "")
    if allocation.state == "ending":
        return f"{name} was asked to end ({allocation.ending_cause}) and has not gone yet"
    return f"{name} is {allocation.state}: {_as_granted(allocation, events)}"


def _as_granted(allocation: Allocation, events: Sequence[Event]) -> str:
    """How it came to what it holds, and what that is now where it is something else."""
    granted = next(e for e in reversed(events) if e.type in ("allocated", "reserved", "confirmed"))
    told = sentence(granted)
    if isinstance(granted.body, Confirmed):
        told = f"{sentence(next(e for e in events if e.type == 'reserved'))}; {told}"
    now = []
    if any(e.type == "adjusted" for e in events):
        now.append(f"it holds {amounts_text(allocation.amounts)} now")
    if any(e.type == "transferred" for e in events):
        now.append(f"it is {allocation.holder}'s now")
    return "; ".join([told, *now])


def at_present(story: Story, book: Book, now: int) -> Story:
    """A story whose answer is why its request waits at ``now``; as it was where nothing waits."""
    waiting = book.allocations.get(story.subject)
    if waiting is None or waiting.state != "waiting":
        return story
    told, ahead = hold_up(book, waiting, now), prospect(book, waiting, now)
    parts = [f"{waiting.id} waits: {told.message}"]
    parts += [f"short by {amounts_text(s)} on {node}" for node, s in told.shortfall.items() if s]
    parts += map(_in_the_way, told.blockers)
    if told.fits_now:
        parts.append(f"{amounts_text(told.fits_now)} fits now")
    if told.reason != Reason.QUOTA_EXCEEDED:
        parts.append(_when(ahead, now))
    facts = {
        **story.facts,
        **_why_not(told),
        "ahead": ahead.ahead,
        "eta_at": None if ahead.eta_ns is None else now + ahead.eta_ns,
        "eta_basis": ahead.basis,
    }
    return replace(story, answer="; ".join(parts), facts=facts)


def _when(ahead: Prospect, now: int) -> str:
    if ahead.eta_ns is not None:
        at = moment_text(now + ahead.eta_ns)
        return f"there may be room at {at} UTC, going by {ahead.basis}"
    if ahead.ahead:
        return f"{ahead.ahead} served first, so nothing tells when"
    return "nothing tells when"


def _in_the_way(blocker: dict[str, Any]) -> str:
    """``h1 (A3) holds cpu=2 since …``, ``h2 (A7) waits for cpu=4 since …, and n1 is kept for it``."""
    who = blocker.get("holder", "another tenant")
    which = f" ({blocker['allocation']})" if "allocation" in blocker else ""
    does = "waits for" if blocker.get("state") == "waiting" else "holds"
    since = blocker.get("since")
    when = f" since {moment_text(since)} UTC" if isinstance(since, int) else ""
    nodes = blocker.get("nodes")
    kept = f", and {some(nodes)} is kept for it" if nodes else ""
    return f"{who}{which} {does} {amounts_text(blocker['amounts'])}{when}{kept}"


def story_of_refusal(event: Event) -> Story:
    """The story of one refusal: short by how much, who was in the way, what would have fitted."""
    body = event.body
    assert isinstance(body, Refused)
    parts = [f"{body.verb} was refused ({body.reason}): {body.message}"]
    for node, short in body.shortfall.items():
        parts.append(f"short by {amounts_text(short)} on {node}")
    if body.fits_now:
        parts.append(f"{amounts_text(body.fits_now)} would have fitted")
    parts += map(_in_the_way, body.blockers)
    return Story(f"R{event.position}", "; ".join(parts), steps_of([event]), _why_not(body))


def _why_not(told: No | Refused) -> dict[str, Any]:
    """What keeps a request from its grant, as facts: now, or when it was refused."""
    return {
        "reason": told.reason,
        "hint": told.hint,
        "shortfall": {n: format_amounts(short) for n, short in told.shortfall.items()},
        "fits_now": format_amounts(told.fits_now),
        "blockers": [{**b, "amounts": format_amounts(b["amounts"])} for b in told.blockers],
    }
