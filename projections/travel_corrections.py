"""What was found out about a moment only after it: ends that were recorded late, and what a later
import says otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ledger.advance import ENDS
from ledger.book import Allocation
from ledger.codec import from_row
from ledger.events import AnyBody, Corrected, Event, Reclaimed
from ledger.log import Row
from projections.travel_history import Known

_END_TYPES = frozenset(body.TYPE for body in ENDS)


@dataclass(frozen=True, slots=True)
class Correction:
    """Something about a moment that was recorded only after it.

    ``believed`` is what the record said at the moment, ``found`` what it said in the end: ``held``,
    ``ended`` or ``unknown``. ``position`` and ``found_at`` are the event that told so; ``counted``
    says whether the state takes it into account.
    """

    allocation: str
    pool: str
    holder: str
    task: str | None
    believed: str
    found: str
    ended_at: int | None
    ended_by: str | None
    position: int
    found_at: int
    counted: bool


def late_end(rows: Iterable[Row], position: int, time: int) -> Event | None:
    """The event that ended an allocation by a time, and was written after it; or None.

    What is in the same commit as the moment's position was not found later, but at once. Of several
    corrections the last one counts, and before what it corrects.
    """
    real = told = None
    for row in rows:
        if row.position <= position or row.recorded_at <= time:
            continue
        if row.type in _END_TYPES and row.at <= time:
            real = from_row(row)
        if row.type == Corrected.TYPE:
            event = from_row(row)
            body = event.body
            assert isinstance(body, Corrected)
            ended_at = body.facts.get("ended_at")
            if isinstance(ended_at, int):
                told = replace(event, at=ended_at, body=_end_told_by(body))
    if told is not None and told.at <= time:
        return told
    return real


def _end_told_by(body: Corrected) -> AnyBody:
    """The end that a correction tells of."""
    cause = str(body.facts.get("ended_by") or "forced")
    return Reclaimed(cause, {"corrects": body.corrects}, body.by, body.reason)


def correction(
    a: Allocation,
    believed: str,
    found: str,
    ended_at: int | None,
    ended_by: str | None,
    event: Event,
    *,
    counted: bool,
) -> Correction:
    return Correction(
        a.id,
        a.pool,
        a.holder,
        a.task,
        believed,
        found,
        ended_at,
        ended_by,
        event.position,
        event.recorded_at,
        counted,
    )


def parted(then: Known, now: Known, time: int) -> list[Correction]:
    """What was found out about an allocation of an observed pool after what was known ``then``."""
    before, after, last = then.tale.at(time), now.tale.at(time), now.tale.last
    if (before is None) == (after is None) or last is None:
        return []
    believed = "ended" if then.tale.life.first else "unknown"
    found, ended_at, ended_by = "held", None, None
    if before is not None:
        believed, found, ended_at, ended_by = "held", "ended", last.ended_at, last.ended_by
    event = next(e for e in now.told if e.position > then.upto)
    return [correction(last, believed, found, ended_at, ended_by, event, counted=False)]
