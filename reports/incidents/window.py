"""Which events a window is about: those recorded in it, and those of what observed pools held in it."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import InvalidInput
from ledger.sqlite_log import SqliteLog
from ledger.times import rfc3339
from projections.past import Past
from projections.travel import observed_pools
from projections.travel_history import History
from reports.incidents.columns import lives

REST_NS = 999
"""A time that was asked for in microseconds means the end of its microsecond."""

When = tuple[str, int]
"""``("position", p)`` or ``("time", ns UTC)``, as the doors read it."""


@dataclass(frozen=True, slots=True)
class Span:
    """The window's events, ``first`` to ``last``, and the times asked for (ns UTC), if any were."""

    first: int
    last: int
    since: int | None = None
    until: int | None = None


def span_of(past: Past, since: When, until: When, now: int) -> Span:
    """The events from ``since`` on and before ``until``.

    Of managed pools those that were recorded in that time. What observed pools record happened at a
    time of its own: with two times given, the span reaches over the events of all that lived in it.
    Raises InvalidInput for a window that is empty, upside down or not in the past.
    """
    head = past.log.head()
    if not head.position:
        raise InvalidInput("nothing has been recorded here yet", "there is nothing to export")
    first, last = _from(past, since, now), _upto(past, until, now)
    if since[0] == until[0] and since[1] >= until[1]:
        raise InvalidInput(
            f"the window is upside down: {_text(since)} is not before {_text(until)}",
            "--from takes the earlier one",
        )
    times = (
        since[1] if since[0] == "time" else None,
        until[1] if until[0] == "time" else None,
    )
    spans = [(first, last)] if first <= last else []
    if times[0] is not None and times[1] is not None:
        spans += _lives(past, times[0], times[1])
    if not spans:
        raise InvalidInput(
            f"nothing was recorded from {_text(since)} until {_text(until)}",
            f"{_nearest(past, last)}; choose a window with events in it",
        )
    return Span(min(s[0] for s in spans), max(s[1] for s in spans), *times)


def _from(past: Past, since: When, now: int) -> int:
    """The first position of a window that begins there."""
    kind, value = since
    _require_past(past, since, "--from", now)
    return max(1, value) if kind == "position" else past.position_at(value - 1) + 1


def _upto(past: Past, until: When, now: int) -> int:
    """The last position of a window that ends before this."""
    kind, value = until
    _require_past(past, until, "--until", now)
    return value - 1 if kind == "position" else past.position_at(value - 1)


def _require_past(past: Past, when: When, name: str, now: int) -> None:
    kind, value = when
    head = past.log.head()
    if kind == "position":
        # A window may end right behind the last event.
        latest = head.position + (name == "--until")
    else:
        latest = max(now, head.recorded_at + 1)
    if value > latest:
        raise InvalidInput(
            f"{name} {_text(when)} lies in the future",
            f"the last event is #{head.position}, at {rfc3339(head.recorded_at)}",
        )


def _lives(past: Past, since: int, until: int) -> list[tuple[int, int]]:
    """First and last event of what observed pools held between two times, both of them included."""
    until += REST_NS
    head = past.log.head()
    pools = observed_pools(past.book_at(head.position))
    if not pools:
        return []
    if isinstance(past.log, SqliteLog):
        return [
            (life.first, life.last)
            for life in lives(past.log, pools)
            if life.corrected
            or (life.begun <= until and (life.ended is None or life.ended > since))
        ]
    spans = []
    for allocation in History(past.log).ids(pools, since, until, head.recorded_at):
        rows = past.log.rows_of_allocation(allocation)
        if rows:
            spans.append((rows[0].position, rows[-1].position))
    return spans


def _nearest(past: Past, last: int) -> str:
    """The events around a gap, in words."""
    head = past.log.head().position
    around = [position for position in (last, last + 1) if 1 <= position <= head]
    named = [f"#{position} at {rfc3339(past.recorded_at(position))}" for position in around]
    return "the nearest events are " + " and ".join(named)


def _text(when: When) -> str:
    kind, value = when
    return f"#{value}" if kind == "position" else rfc3339(value)
