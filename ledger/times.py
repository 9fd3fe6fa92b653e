"""Times as text: nanoseconds UTC as RFC 3339, in one way everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time_ns: int) -> str:
    """Nanoseconds UTC with microseconds, such as ``2026-11-22T06:49:00.000000Z``.

    A number of nanoseconds where no calendar reaches: a time that is no time ends no report.
    """
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return f"{time_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
