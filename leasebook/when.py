"""Times at the doors: RFC 3339 in UTC out; in, also local, relative and as positions.

Nothing here reads a clock: the caller passes ``now`` in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ledger import times
from ledger.amounts import parse_duration_ns
from ledger.errors import InvalidInput

_POSITION = re.compile(r"#?(\d{1,18})\Z")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time_ns: int | None) -> str | None:
    """As :func:`ledger.times.rfc3339`; None stays None."""
    return None if time_ns is None else times.rfc3339(time_ns)


def _bad(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:60]!r} is not a time",
        "give 06:49, 2026-11-22T06:49:00Z, 30m-ago, now, or a position such as #1234",
    )


def _to_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _last_time(now_ns: int, hour: int, minute: int, second: int) -> int:
    """When a local clock last showed a time, up to now. Raises ValueError for no time of day.

    Clocks that are set back show an hour twice, and clocks that are set forward leave one out.
    """
    now = _EPOCH + timedelta(microseconds=now_ns // 1000)
    for days in range(3):
        day = now.astimezone().replace(tzinfo=None) - timedelta(days=days)
        shown = day.replace(hour=hour, minute=minute, second=second, microsecond=0)
        for moment in (shown.replace(fold=1).astimezone(UTC), shown.astimezone(UTC)):
            if moment <= now and moment.astimezone().replace(tzinfo=None) == shown:
                return _to_ns(moment)
    raise ValueError(f"no clock showed {hour:02}:{minute:02} lately")


def parse_when(text: str, now_ns: int) -> tuple[str, int]:
    """``("position", p)`` or ``("time", ns UTC)`` for what a caller typed.

    A time without a zone is in the caller's own; a bare ``06:49`` is the last time it was so late.
    Raises InvalidInput.
    """
    text = text.strip()
    position = _POSITION.match(text)
    if position:
        return "position", int(position[1])
    if text == "now":
        return "time", now_ns
    if text.endswith("-ago"):
        return "time", now_ns - parse_duration_ns(text.removesuffix("-ago"))
    clock = _CLOCK.match(text)
    try:
        if clock:
            return "time", _last_time(now_ns, *(int(part or 0) for part in clock.groups()))
        return "time", _to_ns(datetime.fromisoformat(text).astimezone(UTC))
    except (ValueError, OverflowError):
        raise _bad(text) from None
