"""Details: what an event says beyond its sentence: terms, evidence, how it was measured."""

from __future__ import annotations

from typing import Any

from ledger.events import (
    AlertRaised,
    Allocated,
    Event,
    Queued,
    Reclaimed,
    Refused,
    Reserved,
    UsageRecorded,
    Withdrawn,
)
from ledger.requests import DEFAULT_PRIORITY, Request
from projections.sentences import request_text
from projections.wording import (
    amounts_text,
    facts_text,
    lasting,
    many,
    moment_text,
    plain,
    words,
)


def details(event: Event) -> tuple[str, ...]:
    """What the event says beyond its sentence, each part a sentence of its own without full stop."""
    body = event.body
    match body:
        case Allocated() | Reserved():
            return (*_how_placed(body), *_terms(body.request))
        case Queued():
            return _terms(body.request)
        case Refused():
            return _refusal_details(body)
        case UsageRecorded():
            return _usage_details(body)
        case Reclaimed() | Withdrawn():
            return _evidence_details(body.evidence, body.reason)
        case AlertRaised():
            return (f"Details: {facts_text(body.details)}",) if body.details else ()
        case _:
            return ()


def _how_placed(body: Allocated | Reserved) -> tuple[str, ...]:
    found = [f"Placed by {words(body.strategy)}"] if body.strategy else []
    if body.request.amounts != body.amounts:
        found.append(f"It had asked for {request_text(body.request)}")
    if body.gang is not None:
        found.append(f"Granted together with its gang, {plain(body.gang)}")
    if isinstance(body, Allocated) and body.max_age_until is not None:
        found.append(
            f"However often it is renewed, it ends at {moment_text(body.max_age_until)} UTC"
        )
    return tuple(found)


def _terms(request: Request) -> tuple[str, ...]:
    found = []
    if request.priority != DEFAULT_PRIORITY:
        found.append(f"Its priority is {plain(request.priority)}")
    if request.select:
        found.append(f"Only nodes with {facts_text(request.select)} would do")
    if request.spread is not None:
        found.append(f"It was to spread over {request.spread or 'all'} nodes")
    if request.parent is not None:
        found.append(f"It draws on the capacity of {plain(request.parent)}")
    return tuple(found)


def _refusal_details(body: Refused) -> tuple[str, ...]:
    found = []
    if body.repeats_of is not None:
        found.append(f"This counts repeats of R{body.repeats_of}")
    found += [f"{plain(n)} was short by {amounts_text(s)}" for n, s in body.shortfall.items() if s]
    if body.fits_now:
        found.append(f"{amounts_text(body.fits_now)} would have fitted")
    if body.blockers:
        found.append("In the way: " + "; ".join(map(_blocker, body.blockers)))
    if body.hint:
        found.append(f"The advice was: {plain(body.hint)}")
    return tuple(found)


def _blocker(blocker: dict[str, Any]) -> str:
    """``h1 (A3) with cpu=2 since …``, or ``waiting for``; of another tenant the amounts only."""
    who = plain(blocker.get("holder", "another tenant"))
    which = f" ({plain(blocker['allocation'])})" if "allocation" in blocker else ""
    since = blocker.get("since")
    when = f" since {moment_text(since)} UTC" if isinstance(since, int) else ""
    what = "waiting for" if blocker.get("state") == "waiting" else "with"
    return f"{who}{which} {what} {amounts_text(blocker['amounts'])}{when}"


def _usage_details(body: UsageRecorded) -> tuple[str, ...]:
    found = []
    if body.basis:
        found.append(f"Measured as {facts_text(body.basis)}; {many(body.samples, 'sample')}")
    if body.gaps_ns:
        found.append(f"{lasting(body.gaps_ns)} of it was not watched")
    if body.exit_code is not None:
        found.append(f"The program's exit code was {body.exit_code}")
    return tuple(found)


def _evidence_details(evidence: dict[str, Any], reason: str) -> tuple[str, ...]:
    if "pid" not in evidence:
        return ()
    said = {"pid", "host", "how", "detail", "observed_at"}
    rest = {n: v for n, v in evidence.items() if n not in said and str(v) not in reason}
    return (f"The evidence: {facts_text(rest)}",) if rest else ()
