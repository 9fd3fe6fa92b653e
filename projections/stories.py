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
from ledger.events import Event, Queued, Reclaimed, Refused
from projections.sentences import sentence
from projections.wording import amounts_text, lasting

__all__ = [
    "Step",
    "Story",
    "amounts_text",
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

    ``facts`` are the numbers behind the answer, JSON-ready: shortfall, blockers, evidence.
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
