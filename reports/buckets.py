"""Buckets of time: UTC days or hours, or one bucket that holds everything, in whole nanoseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

NS_PER_S: Final = 1_000_000_000
UNITS_NS: Final = {"day": 86_400 * NS_PER_S, "hour": 3_600 * NS_PER_S}
"""What time can be divided by, and how long one such bucket is."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Time divided by ``unit`` (``day``, ``hour``; None: not at all, everything is bucket 0).

    A bucket is named by its index, counted from 1970-01-01T00:00Z, and holds its first instant but
    not its last. Neither days nor hours of UTC differ in length, so an index is one division.
    """

    unit: str | None

    @property
    def length_ns(self) -> int | None:
        """How long each bucket is; None where there is only one."""
        return None if self.unit is None else UNITS_NS[self.unit]

    def index(self, at: int) -> int:
        """The bucket that an instant (ns UTC) lies in."""
        return 0 if self.unit is None else at // UNITS_NS[self.unit]

    def range(self, first: int, last: int) -> range:
        """The buckets from the one of an instant to that of another, both included."""
        return range(self.index(first), self.index(last) + 1)

    def pieces(self, since: int, until: int) -> Iterator[tuple[int, int, int]]:
        """(index, since, until) for each bucket that an interval [since, until) overlaps, in order."""
        if until <= since:
            return
        length = self.length_ns
        if length is None:
            yield 0, since, until
            return
        index = since // length
        end = (index + 1) * length
        while end < until:
            yield index, since, end
            since, index, end = end, index + 1, end + length
        yield index, since, until

    def text(self, index: int) -> str | None:
        """The bucket's name: ``2016-12-22``, or ``2016-12-22T07:00:00Z``; None for the only one."""
        if self.unit is None:
            return None
        moment = _EPOCH + timedelta(seconds=index * (UNITS_NS[self.unit] // NS_PER_S))
        return f"{moment:%Y-%m-%d}" if self.unit == "day" else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def seconds(ns: int) -> int | float:
    """Nanoseconds as seconds: a whole number as an int, anything else as the nearest float."""
    whole, rest = divmod(ns, NS_PER_S)
    return ns / NS_PER_S if rest else whole
