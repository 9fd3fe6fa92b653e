"""Times as callers type them: on the days when clocks are set forward and back, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from leasebook.when import parse_when, rfc3339
from ledger.errors import InvalidInput


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks that are set forward on 2026-03-29 at 2:00, and back on 2026-10-25 at 3:00."""
    # As a rule, so that no table of time zones has to be there.
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("now", "shown", "expected"),
    [
        ("2026-06-01T12:00:00+02:00", "06:49", "2026-06-01T04:49:00.000000Z"),
        ("2026-06-01T12:00:00+02:00", "12:00", "2026-06-01T10:00:00.000000Z"),
        ("2026-06-01T12:00:00+02:00", "12:00:01", "2026-05-31T10:00:01.000000Z"),
        # Set back: 00:30 and 01:30 were in summer time, 02:30 came twice.
        ("2026-10-25T12:00:00+01:00", "00:30", "2026-10-24T22:30:00.000000Z"),
        ("2026-10-25T12:00:00+01:00", "01:30", "2026-10-24T23:30:00.000000Z"),
        ("2026-10-25T12:00:00+01:00", "02:30", "2026-10-25T01:30:00.000000Z"),
        ("2026-10-25T02:10:00+01:00", "02:30", "2026-10-25T00:30:00.000000Z"),
        ("2026-10-26T00:10:00+01:00", "00:30", "2026-10-24T22:30:00.000000Z"),
        # Set forward: 02:30 was not shown that day.
        ("2026-03-29T12:00:00+02:00", "01:30", "2026-03-29T00:30:00.000000Z"),
        ("2026-03-29T12:00:00+02:00", "02:30", "2026-03-28T01:30:00.000000Z"),
        ("2026-03-29T12:00:00+02:00", "23:00", "2026-03-28T22:00:00.000000Z"),
    ],
)
def test_a_time_of_day_is_the_last_one_that_local_clocks_showed(
    now: str, shown: str, expected: str
) -> None:
    kind, found = parse_when(shown, int(datetime.fromisoformat(now).timestamp()) * 10**9)
    assert (kind, rfc3339(found)) == ("time", expected)


@pytest.mark.parametrize("text", ["25:00", "06:60", "06:49:99", "0001-01-01T00:00:00", ""])
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a time"):
        parse_when(text, 1_790_000_000 * 10**9)
